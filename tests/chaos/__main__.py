"""Break the running ledger at random, and see that it keeps its promises.

    bin/chaos --seed 7 --minutes 10        at random, for a while
    bin/chaos --seed 7 --every             every fault once, in an order that the seed decides
    bin/chaos --seed 7 --rounds 3          three faults
    bin/chaos ... --report FILE            writes the table there

The seed decides which faults come, in which order, and their numbers; when exactly a fault strikes
is the machine's. After each fault the load stops, and everything is checked.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, STEPS
from tests.chaos.world import World


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--only", action="append", default=[], help="a fault by name")
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        world = World(folder, STEPS)
        try:
            rows = run(world, dice, asked)
        except BaseException:
            for child in (*world.servers.children, *world.system.children.values()):
                print(f"-- {child.name}\n{child.log_tail(25)}", file=sys.stderr)
            raise
        finally:
            world.stop()
    if asked.report:
        asked.report.write_text(table(rows, asked))
    print(table(rows, asked))
    return 0


def faults(dice: random.Random, asked: argparse.Namespace) -> Any:
    """The names of the faults, one after another."""
    end = time.monotonic() + 60 * asked.minutes
    names = asked.only or list(FAULTS)
    if asked.every or asked.only:
        yield from dice.sample(names, len(names))
        return
    count = 0
    while count < asked.rounds or time.monotonic() < end:
        yield dice.choice(names)
        count += 1


def run(world: World, dice: random.Random, asked: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    doubled = check(world)["doubled"]
    for name in faults(dice, asked):
        print(f"-- {name}", flush=True)
        before = len(world.load.acknowledged)
        world.load.resume()
        time.sleep(1.5)
        began = time.monotonic()
        FAULTS[name](world, random.Random(dice.random()))
        struck = time.monotonic()
        time.sleep(dice.uniform(0.5, 2))
        world.load.pause()
        settle(world)
        healed = time.monotonic() - struck
        found = check(world)
        row = {
            "fault": name,
            "lasted": round(struck - began, 1),
            "healed": round(healed, 1),
            "commands": len(world.load.acknowledged) - before,
            "new_doubled": max(0, found["doubled"] - doubled),
            **found,
        }
        doubled = found["doubled"]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def settle(world: World) -> None:
    """Until everything has caught up, by itself."""

    def is_settled() -> bool:
        state = world.system.ready()
        assert state["caught_up"], state
        assert state["relayed_position"] == state["log_position"], state
        assert not state["degraded"], state
        assert not state["parked_accounts"], state
        with world.database() as database:
            building = database.execute(
                "SELECT count(*) FROM projections_generation WHERE status = 'building'"
            ).fetchone()
        return building == (0,)

    world.wait(is_settled, "everything to catch up", 180)


def check(world: World) -> dict[str, int]:
    """Every promise; raises at the first that is broken. Returns counts."""
    world.load.pause()
    settle(world)
    assert world.load.surprises == [], world.load.surprises[:3]
    with world.database() as database:
        commands = database.execute(
            "SELECT idempotency_key, id::text, outcome FROM ledger_command WHERE sender LIKE 'user:%'"
        ).fetchall()
        events = database.execute(
            "SELECT position, account_id::text, version, recorded_at "
            "FROM ledger_event ORDER BY position"
        ).fetchall()
    kept = {key: (command_id, outcome) for key, command_id, outcome in commands}
    lost = [
        key
        for key, (command_id, outcome) in world.load.acknowledged.items()
        if key not in kept or kept[key] != (command_id or kept[key][0], outcome)
    ]
    assert lost == [], f"acknowledged, but not as recorded: {lost[:5]}"
    assert len(commands) == len(kept)
    assert [position for position, *_ in events] == list(range(1, len(events) + 1))
    times = [recorded_at for *_, recorded_at in events]
    assert times == sorted(times), "recorded_at fell"
    versions: dict[str, list[int]] = defaultdict(list)
    for _, account, version, _ in events:
        versions[account].append(version)
    assert all(seen == list(range(1, len(seen) + 1)) for seen in versions.values())
    doubled = check_topic(world, len(events), versions)
    sums = world.api("GET", "trial-balance").json()["currencies"]
    assert [row["sum"].strip("-0.") for row in sums] == [""] * len(sums), sums
    replayed = json.loads(world.system.manage("replay", "--json"))
    assert (replayed["differing"], replayed["accounts"]) == (0, len(versions)), replayed
    said = world.system.manage("verify", "--witness", world.system.env["LEDGER_WITNESS"])
    assert "all hold" in said, said
    ready = world.system.ready()
    assert ready["parked_accounts"] == 0, ready
    return {"events": len(events), "lost": len(lost), "doubled": doubled}


def check_topic(world: World, end: int, versions: dict[str, list[int]]) -> int:
    """Every event is there, each account in order without a gap; returns how many came twice."""

    def is_whole() -> list[dict[str, Any]]:
        # The relay notices within seconds that a topic was lost, and begins anew.
        found = world.topic()
        there = {item["position"] for item in found}
        assert there == set(range(1, end + 1)), f"{len(there)} of {end} events are on the topic"
        return found

    records = world.wait(is_whole, "the topic to be the log")
    times = Counter(item["position"] for item in records)
    first: dict[str, int] = defaultdict(int)
    for item in records:
        account, version = item["subject"], item["version"]
        assert version <= first[account] + 1, f"{account}: {version} came after {first[account]}"
        first[account] = max(first[account], version)
    assert {account: len(seen) for account, seen in versions.items()} == dict(first)
    doubled = len(records) - len(times) - world.delivered_again
    return max(doubled, 0)


def table(rows: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    worst: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        worst[row["fault"]].append(row)
    lines = [
        "| fault | times | caught up within, s | acknowledged meanwhile | lost | doubled on Kafka |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in sorted(worst.items()):
        lines.append(
            f"| {name} | {len(found)} | {max(row['healed'] for row in found)} "
            f"| {sum(row['commands'] for row in found)} | {sum(row['lost'] for row in found)} "
            f"| {sum(row['new_doubled'] for row in found)} |"
        )
    total = sum(row["commands"] for row in rows)
    lines.append(f"\nSeed {asked.seed}: {len(rows)} faults, {total:,} commands acknowledged.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
