"""The benchmarks. Each takes the options, yields its results, and leaves a verified log behind."""

import csv
import io
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import requests

from bench import harness as h
from bench.harness import Result, median, medians

ACCOUNTS = 1000
"""Accounts of the HTTP benchmarks: far more than connections, so that hardly two meet."""


class Options:
    """How long and how large; `quick` is for trying the benchmarks, not for figures."""

    def __init__(self, *, quick: bool, full: bool) -> None:
        self.keeps = not quick
        self.rounds = 1 if quick else 3
        self.seconds = 2 if quick else 8
        self.events = 50_000 if quick else 1_000_000
        self.grown = 10_000_000 if full else self.events
        self.rows = 5_000 if quick else 50_000
        self.soak = 5_000 if quick else 420_000


def _accounts(running: Any, token: str, count: int) -> list[str]:
    """Open accounts through the API."""
    ids = [str(uuid4()) for _ in range(count)]
    for at in range(0, count, 500):
        commands = [
            {"command": "OpenAccount", "account_id": item, "holder": "Bench", "currency": "EUR"}
            for item in ids[at : at + 500]
        ]
        _post_batch(running, token, commands)
    return ids


def _post_batch(running: Any, token: str, commands: list[dict[str, Any]]) -> None:
    answer = requests.post(
        f"{running.url}/api/v1/batches",
        data=json.dumps({"commands": commands}),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid4()),
        },
        timeout=60,
    )
    answer.raise_for_status()
    assert answer.json()["accepted"] == len(commands), answer.text[:500]


def _batches_of_500(running: Any, token: str, ids: list[str], seconds: int) -> float:
    """Commands per second from four senders, each with its next batch ready."""
    done = [0] * 4
    stop = time.monotonic() + seconds

    def send(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < stop:
            commands = [
                {
                    "command": "Deposit",
                    "account_id": item,
                    "amount": "1.00",
                    "currency": "EUR",
                    "memo": "benchmark",
                }
                for item in dice.choices(ids, k=500)
            ]
            _post_batch(running, token, commands)
            done[number] += 500

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - start)


def commands(options: Options) -> Iterator[Result]:
    """Durable commands through HTTP, all processes running: disjoint accounts, one, batches."""
    with h.database("commands") as name, h.system(name) as running:
        token = running.manage("create_token", "service").split()[-1]
        ids = _accounts(running, token, ACCOUNTS)
        files = {}
        for label, chosen in (("disjoint", ids), ("hot", ids[:1])):
            files[label] = running.folder / f"{label}.txt"
            files[label].write_text("\n".join(chosen) + "\n")
        latencies: dict[str, list[dict[str, Any]]] = {"disjoint": [], "hot": []}

        def single(label: str) -> float:
            running.wait_caught_up()
            found = h.wrk(
                running.url, options.seconds, "accounts.lua", token, uuid4().hex, str(files[label])
            )
            assert not found["refused"], found
            latencies[label].append(found)
            return float(found["rate"])

        def reference() -> float:
            running.wait_caught_up()
            return h.pgbench(options.seconds)

        def batches() -> float:
            running.wait_caught_up()
            return _batches_of_500(running, token, ids, options.seconds)

        single("disjoint")  # warm up
        latencies["disjoint"].clear()
        runs = medians(
            options.rounds,
            pgbench=reference,
            disjoint=lambda: single("disjoint"),
            hot=lambda: single("hot"),
            batches=batches,
        )
        verdict = h.check_log(name, running)
    tpcb = median(runs["pgbench"])
    notes = {
        label: {key: round(median([item[key] for item in found]), 1) for key in ("p50", "p99")}
        for label, found in latencies.items()
    }
    yield Result(
        "single commands", median(runs["disjoint"]), "commands/s", tpcb, "pgbench tpcb-like",
        0.5, runs=runs["disjoint"], notes={"latency ms": notes["disjoint"], **verdict},
    )  # fmt: skip
    yield Result(
        "single commands, floor", median(runs["disjoint"]), "commands/s", reach=1200,
    )  # fmt: skip
    yield Result(
        "one hot account", median(runs["hot"]), "commands/s", median(runs["disjoint"]),
        "disjoint accounts", 0.8, runs=runs["hot"], notes={"latency ms": notes["hot"]},
    )  # fmt: skip
    yield Result(
        "batches of 500", median(runs["batches"]), "commands/s", tpcb, "pgbench tpcb-like",
        3.0, runs=runs["batches"],
    )  # fmt: skip


def reads(options: Options) -> Iterator[Result]:
    """GET of one of a thousand accounts, alone and while 200 commands a second are written."""
    with h.database("reads") as name, h.system(name) as running:
        token = running.manage("create_token", "service").split()[-1]
        ids = _accounts(running, token, ACCOUNTS)
        path = running.folder / "ids.txt"
        path.write_text("\n".join(ids) + "\n")

        def account() -> float:
            running.wait_caught_up()
            found = h.wrk(running.url, options.seconds, "accounts.lua", token, "read", str(path))
            assert not found["refused"], found
            return float(found["rate"])

        def busy() -> float:
            with _load(running, token, ids, per_second=200):
                found = h.wrk(
                    running.url, options.seconds, "accounts.lua", token, "read", str(path)
                )
            assert not found["refused"], found
            return float(found["rate"])

        runs = medians(
            options.rounds,
            empty=lambda: float(h.wrk(f"{running.url}/healthz", options.seconds)["rate"]),
            account=account,
            busy=busy,
        )
    empty = median(runs["empty"])
    yield Result(
        "read an account", median(runs["account"]), "reads/s", empty, "the empty view /healthz",
        0.6, runs=runs["account"],
    )  # fmt: skip
    yield Result(
        "read an account while 200 commands/s are written", median(runs["busy"]), "reads/s", empty,
        "the empty view /healthz", runs=runs["busy"],
    )  # fmt: skip


class _load:
    """Sends deposits at a steady rate from 16 threads; each starts its next on time or late."""

    def __init__(self, running: Any, token: str, ids: list[str], *, per_second: int) -> None:
        self.running, self.token, self.ids = running, token, ids
        self.pause = 16 / per_second
        self.stop = threading.Event()
        self.sent = [0] * 16
        self.threads = [threading.Thread(target=self._send, args=(n,)) for n in range(16)]

    def __enter__(self) -> "_load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _send(self, number: int) -> None:
        dice = random.Random(number)
        due = time.monotonic() + dice.random() * self.pause
        with requests.Session() as session:
            while not self.stop.wait(max(0.0, due - time.monotonic())):
                due += self.pause
                deposit(session, self.running, self.token, dice.choice(self.ids))
                self.sent[number] += 1


def deposit(session: requests.Session, running: Any, token: str, account: str) -> dict[str, Any]:
    """One deposit; its outcome."""
    answer = session.post(
        f"{running.url}/api/v1/accounts/{account}/deposits",
        data='{"amount": "1.00", "currency": "EUR"}',
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid4()),
        },
        timeout=60,
    )
    assert answer.status_code == 201, answer.text
    outcome: dict[str, Any] = answer.json()
    return outcome


def lag(options: Options) -> Iterator[Result]:
    """From the commit of an event to its account in Redis, under 500 commands a second."""
    import redis

    with h.database("lag") as name, h.system(name) as running:
        token = running.manage("create_token", "service").split()[-1]
        ids = _accounts(running, token, ACCOUNTS)
        running.wait_caught_up()
        client = redis.Redis.from_url(running.env["REDIS_URL"])
        prefix = running.env["LEDGER_REDIS_PREFIX"]
        live = client.get(f"{prefix}:live").decode()
        probe = ids.pop()
        key = f"{prefix}:{live}:{{b{int(probe[-2:], 16) % 64:02d}}}:a:{probe}"
        lags: list[float] = []
        with _load(running, token, ids, per_second=500) as load, requests.Session() as session:
            time.sleep(2)
            start, sent = time.monotonic(), sum(load.sent)
            while time.monotonic() - start < options.seconds * options.rounds:
                outcome = deposit(session, running, token, probe)
                version = outcome["events"][0]["version"]
                while int(client.hget(key, "v") or 0) < version:
                    time.sleep(0.001)
                recorded = datetime.fromisoformat(outcome["recorded_at"])
                lags.append((time.time() - recorded.timestamp()) * 1000)
            rate = (sum(load.sent) - sent) / (time.monotonic() - start)
        verdict = h.check_log(name, running)
    lags.sort()
    p50, p99 = median(lags), lags[int(len(lags) * 0.99)]
    notes = {"commands/s": round(rate), "samples": len(lags), "max ms": round(lags[-1])} | verdict
    yield Result("lag commit to Redis, p50", p50, "ms", reach=50, at_most=True, notes=notes)
    yield Result("lag commit to Redis, p99", p99, "ms", reach=250, at_most=True)


def bulk(options: Options) -> Iterator[Result]:
    """Import of a bank's file against COPY of the same events into a bare table."""
    from django.core.management import call_command

    from ledger import imports

    def imported() -> float:
        with h.database("bulk") as name, h.ledger_on(name):
            parsed = imports.parse(imports.decode(path.read_bytes()), settings)
            start = time.perf_counter()
            result = imports.run(parsed, settings, actor="bench", progress=lambda *_: None)
            seconds = time.perf_counter() - start
            assert result.accepted == options.rows, result
            copied.append(_copy_again(name))
            verdicts.append(h.check_log(name))
        return verdicts[-1]["events"] / seconds

    path = Path(tempfile.gettempdir()) / f"bench-{uuid4().hex}.csv"
    settings = imports.Options(
        source="bench", currency="EUR", overdraft_limit=0, skip_bad_rows=False
    )
    copied: list[float] = []
    verdicts: list[dict[str, Any]] = []
    try:
        call_command("generate_transactions", path, rows=options.rows, accounts=2000)
        runs = medians(options.rounds, imported=imported)
    finally:
        path.unlink()
    yield Result(
        "bulk import", median(runs["imported"]), "events/s", median(copied),
        "COPY into a bare table with the same indexes", 0.25, runs=runs["imported"],
        notes=verdicts[-1],
    )  # fmt: skip


def _copy_again(name: str) -> float:
    with psycopg.connect(h.url_of(name), autocommit=True) as admin:
        admin.execute("CREATE TABLE bare (LIKE ledger_event INCLUDING INDEXES)")
        rows = io.BytesIO()
        with admin.cursor().copy("COPY ledger_event TO STDOUT") as copy:
            for block in copy:
                rows.write(block)
        start = time.perf_counter()
        with admin.cursor().copy("COPY bare FROM STDIN") as copy:
            copy.write(rows.getvalue())
        seconds = time.perf_counter() - start
        count = admin.execute("SELECT count(*) FROM bare").fetchone()[0]
    return float(count / seconds)


def peer(options: Options) -> Iterator[Result]:
    """Append and replay against the Python library `eventsourcing` on the same server."""
    from ledger import store
    from ledger.bus import CommandBus
    from ledger.domain import commands as c
    from ledger.domain.state import Account, evolve
    from ledger.handlers import envelope

    theirs = _Peer()
    with h.database("peer") as name:
        h.fill(name, 10, 10_000, snapshot_every=h.SNAPSHOT_NEVER)
        bus = CommandBus()

        def append() -> float:
            with h.ledger_on(name):
                start = time.perf_counter()
                for number in range(40):
                    bus.send(
                        [
                            [
                                envelope(
                                    c.Deposit(
                                        account_id=h.account_id(i % 10), amount=1, currency="EUR"
                                    ),
                                    sender="bench", key=f"{start}-{number}-{i}",
                                    actor="bench", channel="bench",
                                )
                            ]
                            for i in range(256)
                        ]
                    )  # fmt: skip
                return 40 * 256 / (time.perf_counter() - start)

        def replay() -> float:
            with h.ledger_on(name):
                events = 0
                start = time.perf_counter()
                for number in range(10):
                    account = Account(account_id=h.account_id(number))
                    while page := store.read_foldable(
                        account.account_id, after=account.version, until=None, limit=store.PAGE
                    ):
                        for found in page:
                            account = evolve(account, found.event)
                    events += account.version
                return events / (time.perf_counter() - start)

        runs = medians(
            options.rounds,
            their_append=theirs.append,
            append=append,
            their_replay=theirs.replay,
            replay=replay,
        )
        verdict = h.check_log(name)
    yield Result(
        "append, batched", median(runs["append"]), "events/s", median(runs["their_append"]),
        "eventsourcing, one event a save", 10, runs=runs["append"],
        notes={"their saves of 100 events, events/s": round(theirs.batched()), **verdict},
    )  # fmt: skip
    yield Result(
        "replay", median(runs["replay"]), "events/s", median(runs["their_replay"]),
        "eventsourcing, repository.get", 5, runs=runs["replay"],
    )  # fmt: skip


class _Peer:
    """The library `eventsourcing` with its PostgreSQL store, used as its documentation does."""

    def __init__(self) -> None:
        from urllib.parse import urlsplit

        from eventsourcing.application import Application
        from eventsourcing.domain import Aggregate, event

        class Wallet(Aggregate):
            @event("Opened")
            def __init__(self, holder: str) -> None:
                self.holder = holder
                self.balance = 0

            @event("Deposited")
            def deposit(self, amount: int, currency: str, memo: str) -> None:
                self.balance += amount

        url = urlsplit(h.SUPERUSER_URL)
        with psycopg.connect(h.SUPERUSER_URL, autocommit=True) as admin:
            admin.execute("DROP DATABASE IF EXISTS peer_library")
            admin.execute("CREATE DATABASE peer_library")
        self.wallet = Wallet
        self.app: Any = Application(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": "peer_library",
                "POSTGRES_HOST": str(url.hostname),
                "POSTGRES_PORT": str(url.port),
                "POSTGRES_USER": str(url.username),
                "POSTGRES_PASSWORD": str(url.password),
            }
        )
        long = Wallet("Bench")
        for _ in range(9_999):
            long.deposit(1, "EUR", "benchmark")
        self.app.save(long)
        self.long_id = long.id

    def append(self) -> float:
        """Events per second, one a save: what a command costs there."""
        wallet = self.wallet("Bench")
        self.app.save(wallet)
        start = time.perf_counter()
        for _ in range(1500):
            wallet.deposit(1, "EUR", "benchmark")
            self.app.save(wallet)
        return 1500 / (time.perf_counter() - start)

    def batched(self) -> float:
        """Events per second, a hundred a save."""
        wallet = self.wallet("Bench")
        start = time.perf_counter()
        for _ in range(50):
            for _ in range(100):
                wallet.deposit(1, "EUR", "benchmark")
            self.app.save(wallet)
        return 5000 / (time.perf_counter() - start)

    def replay(self) -> float:
        """Events per second of a load."""
        start = time.perf_counter()
        found = self.app.repository.get(self.long_id)
        assert found.balance == 9_999
        return 10_000 / (time.perf_counter() - start)


def _time_travel(name: str, count: int, accounts: int = 1) -> list[float]:
    """Milliseconds for the state of a random account at each of `count` random moments."""
    from ledger import history, store

    dice = random.Random(7)
    found: list[float] = []
    with h.ledger_on(name):
        [last_opened] = store.read_log(after=accounts - 1, limit=1)
        [last] = store.read_log(after=store.last_position() - 1, limit=1)
        opened = last_opened.recorded_at
        for number in range(count + 50):
            moment = opened + (last.recorded_at - opened) * dice.random()
            account = h.account_id(dice.randrange(accounts))
            start = time.perf_counter()
            history.state_at(account, history.Moment(as_of=moment))
            if number >= 50:
                found.append((time.perf_counter() - start) * 1000)
    return sorted(found)


def time_travel(options: Options) -> Iterator[Result]:
    """The state of an account of a million events at random past moments."""
    with h.database("small") as small, h.database("large") as large:
        h.fill(small, 1, 1000)
        h.fill(large, 1, options.events)
        rounds = [
            (_time_travel(small, 300), _time_travel(large, 300)) for _ in range(options.rounds)
        ]
        verdict = h.check_log(large)
    p50 = median([median(found) for _, found in rounds])
    p99 = median([found[int(len(found) * 0.99)] for _, found in rounds])
    yield Result(
        "state at a past moment, large account", p50, "ms",
        median([median(found) for found, _ in rounds]), "account of 1,000 events", 2.0,
        at_most=True, notes=verdict,
    )  # fmt: skip
    yield Result("state at a past moment, p99", p99, "ms", reach=20, at_most=True)


def rebuild(options: Options) -> Iterator[Result]:
    """Projections of a whole log anew by Celery's workers, against a scan of it into Python."""
    yield from _rebuild(options.events, options.rounds, "rebuild")
    if options.grown > options.events:
        yield from _rebuild(options.grown, 1, "rebuild of ten times the events")


def _rebuild(events: int, rounds: int, label: str) -> Iterator[Result]:
    with h.database("rebuild") as name:
        h.fill(name, ACCOUNTS, events // ACCOUNTS)
        peak: dict[str, float] = {}
        with h.system(name, "worker", "projector", LEDGER_BUS="log") as running:
            _live_generation(name, 0)

            def build() -> float:
                last = _live_generation(name, 0)[0]
                running.manage(
                    "shell", "--no-imports", "-c",
                    "from projections import rebuild; "
                    "rebuild.dispatch(rebuild.start(reason='bench', requested_by='bench'))",
                )  # fmt: skip
                _, seconds = _live_generation(name, last, lambda: _peaks(peak, running))
                return events / seconds

            runs = medians(rounds, scan=lambda: _scan(name), rebuild=build)
            verdict = h.check_log(name)
    yield Result(
        label, median(runs["rebuild"]), "events/s", median(runs["scan"]),
        "sequential scan into Python", 0.5, runs=runs["rebuild"], notes=verdict,
    )  # fmt: skip
    yield Result(f"{label}: memory of a worker", peak["worker"], "MB", reach=300, at_most=True)


def _peaks(peak: dict[str, float], running: Any) -> None:
    for process, megabytes in h.memory(running).items():
        peak[process] = max(peak.get(process, 0.0), megabytes)


def _live_generation(name: str, after: int, watch: Any = lambda: None) -> tuple[int, float]:
    """The live generation above `after`, once there is one, and the seconds it took."""
    with psycopg.connect(h.url_of(name), autocommit=True) as admin:
        while True:
            row = admin.execute(
                "SELECT id, extract(epoch FROM finished_at - started_at)::float "
                "FROM projections_generation WHERE status = 'live' AND id > %s",
                [after],
            ).fetchone()
            watch()
            if row is not None:
                return row
            time.sleep(0.1)


def _scan(name: str) -> float:
    columns = (
        "position, account_id, version, type, schema_version, payload::text, metadata::text, "
        "effective_at, recorded_at, leaf_hash"
    )
    start, count = time.perf_counter(), 0
    with psycopg.connect(h.url_of(name)) as reader, reader.cursor("scan", binary=True) as cursor:
        cursor.execute(f"SELECT {columns} FROM ledger_event ORDER BY position")
        while rows := cursor.fetchmany(1000):
            count += len(rows)
    return count / (time.perf_counter() - start)


def verify(options: Options) -> Iterator[Result]:
    """``manage.py verify`` of a whole log: hashes, tree, commands, versions, heads, snapshots."""
    with h.database("verify") as name:
        h.fill(name, ACCOUNTS, options.events // ACCOUNTS)
        runs = medians(options.rounds, verify=lambda: h.verify(name))
    yield Result("verify", median(runs["verify"]), "events/s", reach=50_000, runs=runs["verify"])


def growth(options: Options) -> Iterator[Result]:
    """Append and time travel on a log of 10,000 events and on a grown one."""
    from ledger.bus import CommandBus
    from ledger.domain import commands as c
    from ledger.handlers import envelope

    def append(name: str, accounts: int) -> float:
        """Milliseconds for a hundred commands."""
        dice = random.Random(3)
        bus = CommandBus()
        found = []
        with h.ledger_on(name):
            for number in range(60):
                units = [
                    [
                        envelope(
                            c.Deposit(
                                account_id=h.account_id(dice.randrange(accounts)),
                                amount=1, currency="EUR",
                            ),
                            sender="bench", key=str(uuid4()), actor="bench", channel="bench",
                        )
                    ]
                    for _ in range(100)
                ]  # fmt: skip
                start = time.perf_counter()
                bus.send(units)
                if number >= 10:
                    found.append((time.perf_counter() - start) * 1000)
        return median(found)

    accounts = 1000  # in both, so that a batch touches as many heads
    with h.database("young") as young, h.database("grown") as grown:
        h.fill(young, accounts, 10)
        h.fill(grown, accounts, options.grown // accounts)
        runs = medians(
            options.rounds,
            young_append=lambda: append(young, accounts),
            grown_append=lambda: append(grown, accounts),
            young_travel=lambda: median(_time_travel(young, 300, accounts)),
            grown_travel=lambda: median(_time_travel(grown, 300, accounts)),
        )
        verdict = h.check_log(grown)
    of = f"at {options.grown:,} events"
    yield Result(
        f"append of 100 commands {of}", median(runs["grown_append"]), "ms",
        median(runs["young_append"]), "at 10,000 events", 1.2, at_most=True,
        runs=runs["grown_append"], notes=verdict,
    )  # fmt: skip
    yield Result(
        f"state at a past moment {of}", median(runs["grown_travel"]), "ms",
        median(runs["young_travel"]), "at 10,000 events", 2.0, at_most=True,
        runs=runs["grown_travel"],
    )  # fmt: skip


PAGES = (
    "", "live", "accounts", "accounts?status=open&holder=Bench", "accounts?format=csv", "search?q=Bench",
    "search?q=1.00+EUR", "search?q={command}", "operations", "approvals", "imports", "periods", "replays",
    "webhooks", "ledger", "ledger?as_of=30+seconds+ago", "ledger/changes?effective_b={since}&known_a=10+minutes+ago", "transactions/{command}", "accounts/{account}",
    "accounts/{account}/live", "accounts/{account}/chart", "accounts/{account}/deposit",
    "accounts/{account}/statement?since={since}", "accounts/{account}/reconcile",
    "accounts/{account}/timeline", "accounts/{account}/timeline?version=2&compare=40",
    "accounts/{account}/explain?expected=1000.00", "accounts/{account}/what-if?command=Withdraw&amount=1",
    "accounts/{account}/known?effective_a={since}&known_a=1+minute+ago", "{reconciliation}",
)  # fmt: skip
STATEMENT_LINES = 200


def pages(options: Options) -> Iterator[Result]:
    """Every page of the back office on a million events: milliseconds, as a browser waits for it."""
    for accounts in (ACCOUNTS, ACCOUNTS // 10):
        each = options.events // accounts
        with h.database("pages") as name:
            h.fill(name, accounts, each)
            with h.system(name) as running:
                _live_generation(name, 0)
                running.wait_caught_up()
                found = _pages(running, h.account_id(5), options.rounds * 5)
                verdict = h.check_log(name, running)
        slowest = max(found, key=lambda path: median(found[path]))
        yield Result(
            f"slowest page, {accounts} accounts of {each:,} events", median(found[slowest]), "ms",
            reach=300, at_most=True, runs=found[slowest],
            notes={path: round(median(times), 1) for path, times in found.items()} | verdict,
        )  # fmt: skip


def _pages(running: Any, account: str, rounds: int) -> dict[str, list[float]]:
    with requests.Session() as session:

        def post(path: str, **options: Any) -> requests.Response:
            session.get(f"{running.url}/{path}").raise_for_status()
            data = options.pop("data", {}) | {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
            answer = session.post(f"{running.url}/{path}", data=data, **options)
            answer.raise_for_status()
            return answer

        post("login", data={"login": "supervisor", "password": "correct horse battery"})
        post("reason", data={"reason": "bench"})
        lines = "".join(
            f":61:2607010701C1,00NTRF{number}\n:86:benchmark\n" for number in range(STATEMENT_LINES)
        )
        text = f":20:B\n:25:B\n:28C:1\n:60F:C260701EUR0,00\n{lines}:62F:C260701EUR{STATEMENT_LINES},00\n"
        compared = post(f"accounts/{account}/reconcile", files={"file": ("bench.sta", text)})
        events = session.get(f"{running.url}/api/v1/accounts/{account}/events").json()["data"]
        last = session.get(f"{running.url}/api/v1/accounts/{account}").json()["version"]
        of_account = (
            f"{running.url}/api/v1/accounts/{account}/events?after={max(0, last - STATEMENT_LINES)}"
        )
        values = {
            "account": account,
            "since": quote(session.get(of_account).json()["data"][0]["recorded_at"]),
            "command": events[1]["metadata"]["command_id"],
            "reconciliation": compared.url.removeprefix(f"{running.url}/"),
        }
        found: dict[str, list[float]] = {path: [] for path in PAGES}
        for number in range(rounds + 1):
            for path in PAGES:
                start = time.perf_counter()
                answer = session.get(f"{running.url}/{path.format_map(values)}")
                spent = (time.perf_counter() - start) * 1000
                assert answer.status_code == 200, (path, answer.status_code, answer.text[-400:])
                if number:
                    found[path].append(spent)
    return found


def soak(options: Options) -> Iterator[Result]:
    """An hour's commands of ten million a day, as fast as they go: memory must stay flat."""
    with h.database("soak") as name, h.system(name) as running:
        token = running.manage("create_token", "service").split()[-1]
        ids = _accounts(running, token, ACCOUNTS)
        path = running.folder / "ids.txt"
        path.write_text("\n".join(ids) + "\n")
        samples: list[dict[str, float]] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(2):
                samples.append(h.memory(running))

        watcher = threading.Thread(target=watch)
        watcher.start()
        sent, start = 0.0, time.monotonic()
        try:
            while sent < options.soak:
                found = h.wrk(running.url, 10, "accounts.lua", token, uuid4().hex, str(path))
                assert not found["refused"], found
                sent += found["rate"] * 10
        finally:
            stop.set()
            watcher.join()
        seconds = time.monotonic() - start
        verdict = h.check_log(name, running)
    if options.keeps:
        with (h.HERE / "soak.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(samples[0]))
            writer.writeheader()
            writer.writerows({k: round(v, 1) for k, v in sample.items()} for sample in samples)
    third = len(samples) // 3
    for process in samples[0]:
        middle = statistics.fmean(sample[process] for sample in samples[third : 2 * third])
        late = statistics.fmean(sample[process] for sample in samples[2 * third :])
        yield Result(
            f"soak: memory of {process}, last third", late, "MB", middle, "middle third", 1.05,
            at_most=True, notes={"commands": round(sent), "seconds": round(seconds), **verdict},
        )  # fmt: skip


BENCHES = {
    "commands": commands,
    "reads": reads,
    "lag": lag,
    "bulk": bulk,
    "peer": peer,
    "time_travel": time_travel,
    "rebuild": rebuild,
    "verify": verify,
    "growth": growth,
    "pages": pages,
    "soak": soak,
}
