"""The whole ledger as real processes, for the flow tests and the benchmarks."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

import local  # noqa: E402  (bin/local.py starts the very processes that bin/up starts)


def wait_for(check: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except (requests.RequestException, AssertionError) as error:
            found, last = None, error
        else:
            last = found
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}: {last}"
        time.sleep(0.1)


class System:
    """Web, worker, beat and projector, each to be killed and started at will."""

    def __init__(self, database: str, folder: Path) -> None:
        self.folder = folder
        self.port = local.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        name = uuid4().hex[:10]
        self.env = {
            **os.environ,
            "DATABASE_URL": os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{database}",
            "DATABASE_OWNER_URL": os.environ["DATABASE_OWNER_URL"].rsplit("/", 1)[0]
            + f"/{database}",
            "LEDGER_REDIS_PREFIX": f"f{name}",
            "LEDGER_TOPIC": f"ledger.events.{name}",
            "LEDGER_SEALS_TOPIC": f"ledger.seals.{name}",
            "LEDGER_SEAL_KEYS": str(folder / "seal.key"),
            "LEDGER_WITNESS": str(folder / "witness"),
            "LEDGER_PIN_WORKERS": "1",
            "LEDGER_PRIVACY_KEYS": "a2V5IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE=",
            "LEDGER_LOGIN_RATE": "1000/m/ip",
            "LEDGER_RATES": "anonymous=0,customer=0,staff=0",
            "CELERY_QUEUE": f"q{name}",
        }
        self.commands = self._commands()
        self.children: dict[str, local.Child] = {}
        self.code = ROOT
        self.seal_key = self.manage("seal_key", "test/ledger", str(folder / "seal.key")).strip()

    def _commands(self) -> dict[str, list[str]]:
        commands = local.processes(self.port, sys.executable)
        index = commands["beat"].index("--schedule") + 1
        commands["beat"][index] = str(self.folder / "beat")
        return commands

    def beside(self, code: Path, folder: Path) -> "System":
        """The same system by other code, on a port of its own; not started."""
        other = copy.copy(self)
        other.folder, other.code, other.children = folder, code, {}
        other.port = local.free_port()
        other.url = f"http://127.0.0.1:{other.port}"
        other.commands = other._commands()
        other.env = self.env | {
            "PYTHONPATH": self.env.get("PYTHONPATH", "").replace(str(ROOT), str(code), 1)
        }
        return other

    def start(self, *names: str) -> None:
        """Start processes, all of them by default."""
        for name in names or self.commands:
            self.children[name] = local.Child(
                name, self.commands[name], log_dir=self.folder, env=self.env, cwd=self.code
            )

    def kill(self, *names: str) -> None:
        """kill -9 of whole process groups: no goodbye, no flush."""
        for name in names:
            child = self.children.pop(name)
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def stop(self) -> None:
        """Stop everything."""
        self.kill(*list(self.children))

    def end(self) -> None:
        """Ask everything to end, as a deploy does."""
        for child in self.children.values():
            child.stop()
        self.children.clear()

    def manage(self, *arguments: str) -> str:
        """Run a management command of this system."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=self.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        body: dict[str, Any] = requests.get(f"{self.url}/readyz", timeout=10).json()
        return body

    def wait_caught_up(self) -> None:
        """Until projections and, with Kafka, the topic hold the whole log."""

        def caught_up() -> bool:
            state = self.ready()
            relayed = state["relayed_position"]
            return state["caught_up"] and relayed in (None, state["log_position"])

        wait_for(caught_up, f"catching up: {self.ready()}", 60)
