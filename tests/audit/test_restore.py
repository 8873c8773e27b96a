"""The restore drill, on real dumps of real databases."""

import json
import os
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from audit import notes, seals
from ledger import store
from ledger.domain import commands as c
from tests.conftest import Sender, superuser

Drill = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def account(send_own: Sender, settings: Any, tmp_path: Path) -> str:
    path = tmp_path / "seal.key"
    path.write_text(notes.Signer.generate("example.org/ledger"))
    settings.LEDGER_SEAL_KEYS = [str(path)]
    settings.LEDGER_WITNESS = str(tmp_path / "witness")
    account = send_own.open(balance=5_000)
    for _ in range(120):
        send_own(c.Deposit(account_id=account, amount=3, currency="EUR"))
    send_own(c.Withdraw(account_id=account, amount=10**9, currency="EUR"))
    seal()
    return account


def seal() -> None:
    for log in store.LOGS:
        seals.seal(log)
    seals.witness()


@pytest.fixture
def drill(own_log: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Drill:
    owner = os.environ["DATABASE_OWNER_URL"].rsplit("/", 1)[0]

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setenv("DATABASE_OWNER_URL", f"{owner}/{own_log}")
        monkeypatch.setenv("LEDGER_SEAL_KEYS", ",".join(settings.LEDGER_SEAL_KEYS))
        monkeypatch.setenv("LEDGER_WITNESS", settings.LEDGER_WITNESS)
        out = StringIO()
        try:
            call_command("restore_drill", "--json", *arguments, stdout=out)
        except SystemExit as stopped:
            return int(str(stopped.code)), json.loads(out.getvalue())
        return 0, json.loads(out.getvalue())

    return run


def scratch_databases() -> list[str]:
    with superuser() as admin:
        rows = admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'ledger_drill_%'")
        return [row[0] for row in rows]


class TestDrill:
    def test_a_dump_of_now_is_restored_and_verified(self, account: str, drill: Drill) -> None:
        code, found = drill()
        assert (code, found["findings"], found["behind_events"]) == (0, [], 0)
        assert found["restored_events"] == found["sealed_events"] == store.last_position()
        assert set(found["seconds"]) == {"dump", "restore", "verify"}
        assert scratch_databases() == []

    def test_an_older_backup_is_said_to_be_behind(
        self, account: str, drill: Drill, send_own: Sender, tmp_path: Path
    ) -> None:
        dump = tmp_path / "old.dump"
        pg_dump = Path(os.environ["LEDGER_PG_BIN"]) / "pg_dump"
        subprocess.run(
            [
                str(pg_dump),
                "-Fc",
                "-f",
                str(dump),
                superuser_url(str(connection.settings_dict["NAME"])),
            ],
            check=True,
        )
        for _ in range(7):
            send_own(c.Deposit(account_id=account, amount=3, currency="EUR"))
        seal()
        code, found = drill("--dump", str(dump))
        assert (code, found["findings"], found["behind_events"]) == (0, [], 7)

    def test_a_database_that_is_not_what_was_sealed_fails(
        self, account: str, drill: Drill, own_log: str
    ) -> None:
        with superuser(own_log) as admin:
            admin.execute("ALTER TABLE ledger_event DISABLE TRIGGER ALL")
            admin.execute(
                "UPDATE ledger_event SET payload = payload || '{\"amount\": 9}' WHERE position = 50"
            )
        code, found = drill()
        assert code == 1
        assert found["findings"][0]["row"] == "event 50"
        assert scratch_databases() == []

    def test_a_dump_that_lacks_what_was_sealed_before_it_fails(
        self, account: str, drill: Drill, own_log: str
    ) -> None:
        """As when the tail was cut off the database, and its seals with it."""
        end = store.last_position()
        with superuser(own_log) as admin:
            for table in ("ledger_event", "ledger_command", "audit_seal"):
                admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            admin.execute("DELETE FROM ledger_event WHERE position > %s", [end - 2])
            admin.execute("DELETE FROM audit_seal")
        code, found = drill()
        assert (code, found["behind_events"]) == (1, 2)

    def test_says_what_it_lacks(
        self, account: str, drill: Drill, tmp_path: Path, monkeypatch: Any
    ) -> None:
        broken = tmp_path / "broken.dump"
        broken.write_bytes(b"PGDMP nonsense")
        with pytest.raises(CommandError, match="pg_restore failed"):
            drill("--dump", str(broken))
        assert scratch_databases() == []
        monkeypatch.setenv("LEDGER_PG_BIN", str(tmp_path))
        with pytest.raises(CommandError, match="LEDGER_PG_BIN"):
            drill()


def superuser_url(database: str) -> str:
    return os.environ["LEDGER_SUPERUSER_URL"].rsplit("/", 1)[0] + f"/{database}"
