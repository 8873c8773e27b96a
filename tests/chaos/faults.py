"""What is done to the ledger while it is under load, by name."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import requests

from tests.chaos import older
from tests.chaos.world import World
from tests.system import System

STEPS: dict[str, tuple[str, str, str]] = {
    "killed before a fold": ("projections.balances", "project", "before"),
    "killed before a commit": ("ledger.store", "append", "before"),
    "killed after a commit, before the answer": ("ledger.store", "append", "after"),
    "killed before producing": ("projections.kafka", "Publisher.publish", "before"),
    "killed after producing, before it is noted": (
        "projections.kafka",
        "Publisher.publish",
        "after",
    ),
    "killed after noting what was produced": ("projections.relay", "_Copy.note", "after"),
    "killed before a projection write": ("projections.redis_store", "apply", "before"),
    "killed after a projection write": ("projections.redis_store", "apply", "after"),
    "killed after noting progress": ("projections.redis_store", "save_progress", "after"),
    "killed before a seal": ("audit.seals", "seal", "before"),
    "killed after a seal": ("audit.seals", "seal", "after"),
    "killed in the middle of a rebuild": ("projections.rebuild", "build_shard", "after"),
    "killed before the swap": ("projections.redis_store", "go_live", "before"),
    "killed after the swap": ("projections.redis_store", "go_live", "after"),
}
"""Name to module, function and side of it."""
REBUILDS = ("killed in the middle of a rebuild", "killed before the swap", "killed after the swap")

Fault = Callable[[World, random.Random], None]


def _kill(name: str) -> Fault:
    def fault(world: World, dice: random.Random) -> None:
        world.system.kill(name)
        time.sleep(dice.uniform(0, 1.5))
        world.system.start(name)

    return fault


def _freeze(name: str) -> Fault:
    """A process that stands still, and wakes believing that nothing happened."""

    def fault(world: World, dice: random.Random) -> None:
        world.stopped.add(name)
        group = world.system.children[name].process.pid
        os.killpg(group, signal.SIGSTOP)
        world.second(name)
        time.sleep(dice.uniform(2, 5))
        os.killpg(group, signal.SIGCONT)
        time.sleep(1)
        world.end_second()
        world.stopped.discard(name)

    return fault


def _second(name: str) -> Fault:
    def fault(world: World, dice: random.Random) -> None:
        world.second(name)
        time.sleep(dice.uniform(3, 6))
        world.end_second()

    return fault


def _kill_server(name: str) -> Fault:
    def fault(world: World, dice: random.Random) -> None:
        world.kill_server(name)
        time.sleep(dice.uniform(0.2, 2))
        world.start_server(name)

    return fault


def _at(step: str) -> Fault:
    def fault(world: World, dice: random.Random) -> None:
        armed = world.folder / "armed"
        calls = 1 if step in REBUILDS or "seal" in step else dice.randint(1, 10)
        text = "|".join((*STEPS[step], str(calls)))
        armed.with_suffix(".new").write_text(text)
        armed.with_suffix(".new").rename(armed)
        if step in REBUILDS:
            world.redis().flushall()
        world.wait(lambda: not armed.exists(), f"a process to come to: {step}", 60)

    return fault


def pause_kafka(world: World, dice: random.Random) -> None:
    """The broker hangs, with connections open, and goes on."""
    group = world.server("kafka").process.pid
    os.killpg(group, signal.SIGSTOP)
    time.sleep(dice.uniform(3, 8))
    os.killpg(group, signal.SIGCONT)


def delete_topic(world: World, _: random.Random) -> None:
    world.delivered_again = 0
    admin = world.admin()  # it must live until its future has come
    for future in admin.delete_topics([world.system.env["LEDGER_TOPIC"]]).values():
        future.result(20)


def lose_disk(world: World, _: random.Random) -> None:
    world.delivered_again = 0
    world.lose_kafkas_disk()


def flush_redis(world: World, _: random.Random) -> None:
    world.redis().flushall()


def evict(world: World, dice: random.Random) -> None:
    """Redis runs out of memory and throws away whatever it likes, work queue included."""
    redis = world.redis()
    used = int(redis.info("memory")["used_memory"])
    redis.config_set("maxmemory-policy", "allkeys-random")
    redis.config_set("maxmemory", used - dice.randint(20_000, 200_000))
    time.sleep(2)
    redis.config_set("maxmemory", 0)
    redis.config_set("maxmemory-policy", "noeviction")


def deliver_again(world: World, dice: random.Random) -> None:
    world.delivered_again += world.deliver_again(300, dice)


def rubbish(world: World, dice: random.Random) -> None:
    """Records that nobody here wrote."""
    from confluent_kafka import Producer

    producer = Producer(world.kafka)
    for _ in range(5):
        key = dice.choice([*world.load.accounts, "?", None])
        value = dice.choice([b"", b"rubbish", b"\xff\x00", b"[]"])
        partition = dice.randrange(12)
        producer.produce(
            world.system.env["LEDGER_TOPIC"], key=key, value=value, partition=partition
        )
    producer.flush(20)


def deploy(world: World, _: random.Random) -> None:
    """Back to the release before this one and forward again, side by side with it both times.

    The older code meets events that it does not know: it refuses their accounts, and parks them.
    """
    newer = world.system
    folder = world.folder / "older"
    if not folder.exists():
        older.make(folder)
    before = newer.beside(folder, world.folder / "older-log")
    before.start()
    world.wait_for_web(before)
    world.urls = [newer.url, before.url]
    refused = meets_what_it_does_not_know(world, before)
    assert (refused.status_code, refused.json()["code"]) == (503, "state_incomplete"), refused.text
    time.sleep(2)

    world.urls = [before.url]
    world.stopped |= set(newer.children)
    newer.end()
    # It has all to itself, and makes the projections its own.
    world.wait(lambda: world.live_schema() != world.schema, "the older code to rebuild", 60)
    account = with_every_change(world, before)

    newer.start()
    world.stopped.clear()
    world.wait_for_web(newer)
    world.urls = [newer.url, before.url]
    time.sleep(2)
    world.urls = [newer.url]
    before.end()
    world.wait(lambda: world.live_schema() == world.schema, "the newer code to rebuild", 60)
    with_every_change(world, newer, account)
    with world.database() as database:
        written = database.execute(
            "SELECT type, array_agg(schema_version ORDER BY version) FROM ledger_event "
            "WHERE account_id = %s GROUP BY type HAVING count(*) = 2",
            [account],
        ).fetchall()
    changed = ("BalanceAdjusted", "HoldCaptured", "OverdraftLimitSet")
    assert {name: versions for name, versions in written if name in changed} == {
        name: [1, 2] for name in changed
    }, written


def with_every_change(world: World, system: System, account: str = "") -> str:
    """Through one release, an event of each type that the two write differently."""

    def post(path: str, **body: str) -> str:
        key = {"Idempotency-Key": f"deploy-{uuid4()}"}
        told = world.api(
            "POST", path, url=system.url, json={"currency": "EUR", **body}, headers=key
        )
        assert told.status_code == 201, told.text
        answer = told.json()
        return str(answer["command_id"] if account else answer["accounts"][0]["id"])

    if not account:
        account = post("accounts", holder="Deploy")
        post(f"accounts/{account}/deposits", amount="10.00")
    base = f"accounts/{account}"
    post(f"{base}/overdraft-limit", limit="5.00")
    post(f"{base}/adjustments", amount="1.00", reason="deploy")
    hold = post(f"{base}/holds", amount="2.00")
    post(f"{base}/holds/{hold}/capture", amount="1.00")
    return account


def meets_what_it_does_not_know(world: World, before: System) -> requests.Response:
    """The older code's answer for an account that has an event of the newer code."""
    account = world.load.accounts[0]
    money = {"amount": "1.00", "currency": "EUR"}
    path, key = f"accounts/{account}/adjustments", {"Idempotency-Key": f"deploy-{uuid4()}"}
    told = world.api("POST", path, json={**money, "reason": "by the newer code"}, headers=key)
    assert told.status_code == 201, told.text
    key = {"Idempotency-Key": f"deploy-{uuid4()}"}
    return world.api(
        "POST", f"accounts/{account}/deposits", url=before.url, json=money, headers=key
    )


def poison(world: World, dice: random.Random) -> None:
    """A bug in the fold that only one account meets, until a projector with mended code starts."""
    account, other = dice.sample(world.load.accounts, 2)
    marked = world.folder / "poison"
    marked.with_suffix(".new").write_text(account)
    marked.with_suffix(".new").rename(marked)

    def is_alone() -> bool:
        state = world.system.ready()
        assert state["projected_position"] == state["log_position"], state
        return bool(state["parked_accounts"] == 1)

    world.load.pause()
    money = {"amount": "1.00", "currency": "EUR"}
    for item in (account, other):
        world.load.send(f"accounts/{item}/deposits", money, f"poison-{uuid4()}")
    world.wait(is_alone, "one account to be parked, and only that", 30)
    world.load.resume()
    time.sleep(dice.uniform(0.5, 2))
    marked.unlink()
    world.system.kill("projector")
    world.system.start("projector")


def clock_back(world: World, dice: random.Random) -> None:
    """The clock of PostgreSQL, which is the ledger's, jumps back by up to a day, and is put right."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    assert library, "the clock is moved by libfaketime: install it (on Debian: libfaketime)"
    clock = world.folder / "clock"
    clock.write_text("+0")
    world.kill_server("postgres")
    moved = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock)}
    world.start_server("postgres", os.environ | moved | {"FAKETIME_CACHE_DURATION": "1"})
    world.wait(lambda: world.now() > 0, "PostgreSQL")
    time.sleep(2)
    back = dice.randint(60, 86_400)
    clock.write_text(f"-{back}")
    world.wait(lambda: time.time() - world.now() > back - 1, "the clock to be set back")
    time.sleep(2)
    world.load.pause()
    size = world.system.ready()["log_position"]

    def goes_on() -> bool:
        state = world.system.ready()
        assert state["caught_up"], state
        assert state["relayed_position"] == state["log_position"], state
        return bool(world.api("GET", "seal").json()["size"] >= size)

    world.wait(goes_on, "everything to go on with the clock set back", 60)
    world.load.resume()
    time.sleep(2)
    clock.write_text("+0")
    world.wait(lambda: abs(time.time() - world.now()) < 1, "the clock to be right again")
    time.sleep(2)
    world.kill_server("postgres")
    world.start_server("postgres")


FAULTS: dict[str, Fault] = {
    "kill -9 of the web server": _kill("web"),
    "kill -9 of the worker": _kill("worker"),
    "kill -9 of beat": _kill("beat"),
    "kill -9 of the projector": _kill("projector"),
    "worker frozen while another takes over": _freeze("worker"),
    "projector frozen while another takes over": _freeze("projector"),
    "two workers, so two relays": _second("worker"),
    "two beats": _second("beat"),
    "two projectors": _second("projector"),
    "kill -9 of PostgreSQL": _kill_server("postgres"),
    "kill -9 of Redis": _kill_server("valkey"),
    "kill -9 of Kafka": _kill_server("kafka"),
    "Kafka hangs and goes on": pause_kafka,
    "topic deleted": delete_topic,
    "Kafka's disk lost": lose_disk,
    "FLUSHALL": flush_redis,
    "Redis evicts at random": evict,
    "records delivered again, in another order": deliver_again,
    "strange records on the topic": rubbish,
    "a poisoned event": poison,
    "PostgreSQL's clock set back, and right again": clock_back,
    "back to the older release and forward again": deploy,
    **{step: _at(step) for step in STEPS},
}
