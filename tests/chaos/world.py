"""The whole ledger with servers of its own, all of which can be killed, wiped and started again."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import requests
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from tests import system as processes

local = processes.local  # type: ignore[attr-defined]  # bin/local.py, found by tests.system

PARTITIONS = 12
ACCOUNTS = 12
OPENING = 100_000


class World:
    """Servers, processes and load of one run."""

    def __init__(self, folder: Path, steps: dict[str, tuple[str, str, str]]) -> None:
        self.folder = folder
        self.servers = local.Servers(
            folder, ports=lambda _wanted, _name: local.free_port(), persistent=True
        )
        self.servers.start()
        os.environ.update(self.servers.env)
        (folder / "steps").write_text("\n".join("|".join(step) for step in steps.values()))
        (folder / "ledger").mkdir()
        self.system = processes.System("ledger", folder / "ledger")
        self.system.env |= {
            "CHAOS_FOLDER": str(folder),
            "PYTHONPATH": f"{processes.ROOT}:{processes.ROOT / 'tests' / 'chaos' / 'inside'}",
            "LEDGER_CHECK_PAUSE_SECONDS": "1",
        }
        self.system.manage("migrate", "--database", "owner")
        self.system.manage("demo", "--password", "correct horse battery", "--rows", "100")
        self.token = self.system.manage("create_token", "service").strip()
        self.extra: dict[str, Any] = {}
        self.stopped: set[str] = set()
        self.delivered_again = 0
        self.urls = [self.system.url]
        self.system.start()
        self.wait_for_web(self.system)
        self.wait(lambda: self.live_schema(), "the first build of projections")
        self.schema = self.live_schema()
        self.load = Load(self)

    # -- processes -------------------------------------------------------------------------------

    def wait_for_web(self, system: processes.System) -> None:
        self.wait(
            lambda: self.api("GET", "seal", url=system.url).status_code in (200, 404),
            "the web server",
        )

    def api(self, method: str, path: str, url: str = "", **options: Any) -> requests.Response:
        return requests.request(
            method,
            f"{url or self.system.url}/api/v1/{path}",
            headers={"Authorization": f"Bearer {self.token}", **options.pop("headers", {})},
            timeout=20,
            **options,
        )

    def wait(self, check: Any, what: str, seconds: float = 120) -> Any:
        """The first true answer; what died meanwhile is started again, as bin/up does."""
        deadline = time.monotonic() + seconds
        last: Any = None
        while time.monotonic() < deadline:
            self.revive()
            try:
                last = check()
            except (
                requests.RequestException, AssertionError, psycopg.Error, KeyError, KafkaException,
            ) as error:  # fmt: skip
                last = error
            else:
                if last:
                    return last
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:.0f} s for {what}: {last!r}")

    def revive(self) -> None:
        for name, child in list(self.system.children.items()):
            if name not in self.stopped and child.process.poll() is not None:
                del self.system.children[name]
                self.system.start(name)

    def server(self, name: str) -> Any:
        return next(child for child in self.servers.children if child.name == name)

    def kill_server(self, name: str) -> None:
        child = self.server(name)
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()

    def start_server(self, name: str, env: dict[str, str] | None = None) -> None:
        """Start a server again; one whose predecessor still lets go of its memory is tried again."""
        old = self.server(name)
        self.servers.children.remove(old)
        deadline = time.monotonic() + 60
        while True:
            command = [str(item) for item in old.process.args]
            postgres = self.servers.postgres
            user = postgres.user if postgres and name == "postgres" else None
            child = local.Child(
                name, command, log_dir=self.folder / "log", user=user, env=env,
                stop_signal=old.stop_signal,
            )  # fmt: skip
            time.sleep(0.3)
            if child.process.poll() is None:
                self.servers.children.append(child)
                return
            assert time.monotonic() < deadline, child.log_tail()

    def lose_kafkas_disk(self) -> None:
        """A new broker at the old address, with nothing on it."""
        address = os.environ["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2]
        self.kill_server("kafka")
        text = (self.folder / "kafka" / "server.properties").read_text()
        controller = text.split("CONTROLLER://127.0.0.1:")[1].split("\n")[0]
        shutil.rmtree(self.folder / "kafka" / "data")
        self.servers.children.remove(self.server("kafka"))
        self.servers.children.append(local.start_kafka(self.folder, int(address), int(controller)))

    def redis(self) -> Redis:
        return Redis.from_url(self.system.env["REDIS_URL"])

    @property
    def kafka(self) -> dict[str, str | int | float | bool]:
        return {"bootstrap.servers": self.system.env["KAFKA_BOOTSTRAP_SERVERS"]}

    def admin(self) -> AdminClient:
        return AdminClient(self.kafka)

    def topic(self) -> list[dict[str, Any]]:
        """Every record of ours on the topic, partition by partition, in order."""
        consumer = Consumer({**self.kafka, "group.id": uuid4().hex, "enable.auto.commit": False})
        name = self.system.env["LEDGER_TOPIC"]
        places = [TopicPartition(name, number, 0) for number in range(PARTITIONS)]
        ends = sum(
            high - low
            for low, high in (consumer.get_watermark_offsets(item, timeout=20) for item in places)
        )
        consumer.assign(places)
        found, seen = [], 0
        while seen < ends:
            batch = consumer.consume(1000, 20)
            assert batch, f"{seen} of {ends} records could be read"
            for message in batch:
                assert message.error() is None, message.error()
                seen += 1
                if (message.value() or b"").startswith(b"{"):
                    found.append(json.loads(message.value() or b"") | {"raw": message})
        consumer.close()
        return found

    def deliver_again(self, count: int, dice: Any) -> int:
        """Old records once more at the end of their partitions, in another order."""
        records = self.topic()
        chosen = dice.sample(records, min(count, len(records)))
        producer = Producer(self.kafka)
        for item in chosen:
            message = item["raw"]
            producer.produce(
                message.topic(), key=message.key(), value=message.value(),
                partition=message.partition(),
            )  # fmt: skip
        producer.flush(20)
        return len(chosen)

    def database(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.servers.env["LEDGER_SUPERUSER_URL"], autocommit=True)

    def now(self) -> float:
        """PostgreSQL's clock, in seconds since 1970."""
        with self.database() as database:
            row = database.execute(
                "SELECT extract(epoch FROM clock_timestamp())::double precision"
            ).fetchone()
        assert row
        seconds: float = row[0]
        return seconds

    def live_schema(self) -> str:
        """Names the code that made the projections which readers see."""
        with self.database() as database:
            row = database.execute(
                "SELECT schema FROM projections_generation WHERE status = 'live'"
            ).fetchone()
        return row[0] if row else ""

    def stop(self) -> None:
        self.load.stop()
        for child in self.extra.values():
            os.killpg(child.process.pid, signal.SIGKILL)
        self.system.stop()
        self.servers.stop()

    def second(self, name: str) -> None:
        """Another worker, beat or projector beside the first."""
        command = [part.replace("beat-schedule", "beat-2") for part in self.system.commands[name]]
        if name == "beat":
            command[command.index("--schedule") + 1] += "-2"
        self.extra[name] = local.Child(
            f"second-{name}", command, log_dir=self.folder / "ledger", env=self.system.env
        )

    def end_second(self) -> None:
        for child in self.extra.values():
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
        self.extra.clear()


class Load:
    """Commands from several threads, each sent with one key until it is answered for good."""

    def __init__(self, world: World, threads: int = 3) -> None:
        self.world = world
        self.acknowledged: dict[str, tuple[str, str]] = {}
        self.sent: set[str] = set()
        self.surprises: list[str] = []
        self._stop = threading.Event()
        self._pause = threading.Event()
        self._lock = threading.Lock()
        self.accounts = [self._open(number) for number in range(ACCOUNTS)]
        self.workers = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(threads)
        ]
        self.idle = threading.Semaphore(0)
        for worker in self.workers:
            worker.start()

    def _open(self, number: int) -> str:
        body = {"holder": f"Chaos {number}", "currency": "EUR"}
        account: str = self.send("accounts", body, f"open-{number}")["accounts"][0]["id"]
        amount = {"amount": f"{OPENING // 100}.00", "currency": "EUR"}
        self.send(f"accounts/{account}/deposits", amount, f"fund-{number}")
        return account

    def send(self, path: str, body: dict[str, Any], key: str) -> Any:
        with self._lock:
            self.sent.add(key)
        while not self._stop.is_set():
            try:
                answer = self.world.api(
                    "POST", path, url=random.choice(self.world.urls),
                    json=body, headers={"Idempotency-Key": key},
                )  # fmt: skip
            except requests.RequestException:
                time.sleep(0.05)
                continue
            told = answer.json()
            if answer.status_code in (200, 201):
                with self._lock:
                    self.acknowledged[key] = (told["command_id"], "accepted")
                return told
            if answer.status_code == 422:  # a refusal is recorded, and stands
                with self._lock:
                    self.acknowledged[key] = ("", "rejected")
                return told
            if answer.status_code not in (409, 502, 503):
                self.surprises.append(f"{answer.status_code} {answer.text[:300]}")
                return told
            time.sleep(0.05)
        return {}

    def _run(self, number: int) -> None:
        dice = random.Random(number)
        for count in range(10**9):
            while self._pause.is_set() and not self._stop.is_set():
                time.sleep(0.02)
            if self._stop.is_set():
                return
            key = f"{number}-{count}"
            payer, payee = dice.sample(self.accounts, 2)
            cents = f"{dice.randint(1, 900) / 100:.2f}"
            money = {"amount": cents, "currency": "EUR"}
            match dice.randrange(8):
                case 0:
                    self.send(f"accounts/{payer}/deposits", money, key)
                case 1:
                    self.send(f"accounts/{payer}/withdrawals", money, key)
                case 2:
                    held = self.send(f"accounts/{payer}/holds", money, key)
                    if "command_id" in held:
                        path = f"accounts/{payer}/holds/{held['command_id']}/capture"
                        self.send(path, {}, f"{key}-capture")
                case 3:
                    limit = {"limit": f"{dice.randint(0, 50)}.00", "currency": "EUR"}
                    self.send(f"accounts/{payer}/overdraft-limit", limit, key)
                case 4:
                    self.send(f"accounts/{payer}/adjustments", {**money, "reason": "chaos"}, key)
                case _:
                    both = {"from_account_id": payer, "to_account_id": payee, **money}
                    self.send("transfers", both, key)

    def pause(self) -> None:
        """Wait until nothing is in flight."""
        self._pause.set()
        with self._lock:
            before = -1
        while before != len(self.acknowledged) or len(self.acknowledged) < len(self.sent):
            before = len(self.acknowledged)
            self.world.revive()
            if self.surprises:
                return
            time.sleep(0.3)

    def resume(self) -> None:
        self._pause.clear()

    def stop(self) -> None:
        self._stop.set()
