"""A log out of one database into another: the same numbers, times, hashes and seals, or nothing."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection

from audit import notes, seals
from ledger import store
from ledger.domain import commands as c
from tests.conftest import Sender, cloned_database, superuser

Import = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def keys(settings: Any, tmp_path: Path) -> str:
    path = tmp_path / "seal.key"
    path.write_text(notes.Signer.generate("example.org/ledger"))
    settings.LEDGER_SEAL_KEYS = [str(path)]
    settings.LEDGER_WITNESS = str(tmp_path / "witness")
    return str(path)


@pytest.fixture
def archive(send_own: Sender, keys: str, tmp_path: Path) -> Path:
    """Events, a transfer, a refusal, a look; sealed, and gone on after that."""
    one, two = send_own.open(balance=90_000), send_own.open(balance=50)
    send_own(c.Withdraw(account_id=two, amount=10**9, currency="EUR"))
    seal()
    for _ in range(4):
        send_own(c.Transfer(from_account_id=one, to_account_id=two, amount=700, currency="EUR"))
    look = dict.fromkeys(store.ACCESS_FIELDS, "test") | {"account_id": one, "reason": "case 17"}
    store.record_access(look)
    seal()
    send_own(c.Withdraw(account_id=two, amount=10, currency="EUR"))
    return export(tmp_path / "log.jsonl.gz")


def export(path: Path) -> Path:
    call_command("export_log", str(path), stdout=StringIO())
    return path


def seal() -> None:
    for log in store.LOGS:
        seals.seal(log)
    seals.witness()


@pytest.fixture
def other() -> Iterator[str]:
    with cloned_database() as name:
        yield name


@pytest.fixture
def import_into(other: str, settings: Any) -> Import:
    """``import_log`` as a process of its own, on another database."""

    def url(name: str) -> str:
        return os.environ[name].rsplit("/", 1)[0] + f"/{other}"

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", "import_log", str(path)],
            cwd=django_settings.BASE_DIR,
            env=os.environ
            | {
                "DATABASE_URL": url("DATABASE_URL"),
                "DATABASE_OWNER_URL": url("DATABASE_OWNER_URL"),
                "LEDGER_SEAL_KEYS": ",".join(settings.LEDGER_SEAL_KEYS),
                "LEDGER_WITNESS": settings.LEDGER_WITNESS,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def rows(database: str) -> dict[str, list[Any]]:
    """Everything that must be the same; a seal's own key is not."""
    with superuser(database) as admin:
        return {
            table: admin.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in (
                ("ledger_event", "*"),
                ("ledger_command", "*"),
                ("ledger_access", "*"),
                ("audit_seal", "log, size, root, note, sealed_at"),
                ("ledger_account", "*"),
                ("ledger_snapshot", "*"),
            )
        }


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in content)
    return path


class TestRoundTrip:
    def test_everything_comes_back_as_it_was_and_goes_on(
        self,
        archive: Path,
        own_log: str,
        send_own: Sender,
        other: str,
        import_into: Import,
        tmp_path: Path,
    ) -> None:
        one, two = send_own.open(balance=90_000), send_own.open()
        for _ in range(store.PAGE - 1 - store.last_position()):
            send_own(c.Deposit(account_id=one, amount=3, currency="EUR"))
        send_own(c.Transfer(from_account_id=one, to_account_id=two, amount=700, currency="EUR"))
        [_, sent] = store.read_range(store.PAGE - 1, store.PAGE)
        assert sent.type == "TransferSent"  # the page ends between its legs
        archive = export(tmp_path / "long.jsonl.gz")
        done = import_into(archive)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all hold" in done.stdout
        before = rows(own_log)
        assert before["audit_seal"]
        assert rows(other) == before
        connection.close()
        connection.settings_dict["NAME"] = other
        again = export(tmp_path / "again.jsonl.gz")
        assert again.read_bytes() == archive.read_bytes()
        # The tree goes on from the last seal, and so does the log.
        account = before["ledger_account"][0][0]
        Sender()(c.Deposit(account_id=str(account), amount=1, currency="EUR"))
        assert store.last_position() == len(before["ledger_event"]) + 1
        newest = seals.seal()
        assert newest is not None
        assert newest.size == store.last_position()

    def test_the_same_log_gives_the_same_bytes(self, archive: Path, tmp_path: Path) -> None:
        again = export(tmp_path / "again.jsonl.gz")
        assert again.read_bytes() == archive.read_bytes()

    def test_an_empty_log_is_a_log(
        self, own_log: str, keys: str, import_into: Import, tmp_path: Path
    ) -> None:
        path = export(tmp_path / "empty.jsonl.gz")
        assert import_into(path).returncode == 0

    def test_a_file_that_is_there_is_not_overwritten(self, archive: Path) -> None:
        before = archive.read_bytes()
        with pytest.raises(CommandError, match="is there already"):
            call_command("export_log", str(archive))
        assert archive.read_bytes() == before


def _amount(content: list[dict[str, Any]]) -> None:
    row = next(line["events"] for line in content if "amount" in str(line.get("events")))
    row["payload"]["amount"] += 1


def _refusal(content: list[dict[str, Any]]) -> None:
    row = next(
        line["commands"]
        for line in content
        if line.get("commands", {}).get("outcome") == "rejected"
    )
    row["actor"] = "somebody else"


def _look(content: list[dict[str, Any]]) -> None:
    row = next(line["reads"] for line in content if "reads" in line)
    row["reason"] = "no reason"


def _no_last_command(content: list[dict[str, Any]]) -> None:
    [*_, last] = (line for line in content if "commands" in line)
    content.remove(last)
    content[0]["ends"]["commands"] -= 1


def _tail(content: list[dict[str, Any]]) -> None:
    """All that a truncation would take: the events, their commands, their seals, the counts."""
    kept = [line for line in content if line.get("events", {}).get("position", 0) <= 4]
    kept = [line for line in kept if (line.get("commands", {}).get("last_position") or 0) <= 4]
    kept = [line for line in kept if line.get("seal", {}).get("size", 0) <= 4]
    content[:] = kept
    numbered = [line["commands"] for line in content if "commands" in line]
    for number, row in enumerate(numbered, 1):
        row["number"] = number
    content[0]["ends"] |= {"events": 4, "commands": len(numbered)}


def _seal_note(content: list[dict[str, Any]]) -> None:
    row = next(line["seal"] for line in content if "seal" in line)
    row["note"] = row["note"].replace("example.org", "example.com")


def _format(content: list[dict[str, Any]]) -> None:
    content[0]["format"] = "ledger-log/9"


def _kind(content: list[dict[str, Any]]) -> None:
    content.append({"secrets": {}})


def _hole(content: list[dict[str, Any]]) -> None:
    row = next(line for line in content if line.get("events", {}).get("position") == 4)
    content.remove(row)


def _short(content: list[dict[str, Any]]) -> None:
    content.remove(next(line for line in content if "reads" in line))


def _column(content: list[dict[str, Any]]) -> None:
    row = next(line["events"] for line in content if "events" in line)
    row["recorded_at"] = "not a time"


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (_amount, "is not what leaf_hash was made of"),
            (_refusal, "is not what leaf_hash was made of"),
            (_look, "is not what leaf_hash was made of"),
            (_no_last_command, "id: does not agree with its event"),
            (_tail, "its tail is gone"),
            (_seal_note, "seal of"),
            (_format, "its format is 'ledger-log/9'"),
            (_kind, "'secrets' is none of"),
            (_hole, "do not continue the log"),
            (_short, "ends early"),
            (_column, "invalid input syntax for type timestamp"),
        ],
    )
    def test_a_changed_file_is_refused_and_the_place_is_named(
        self,
        archive: Path,
        other: str,
        import_into: Import,
        tmp_path: Path,
        change: Callable[[list[dict[str, Any]]], None],
        said: str,
    ) -> None:
        content = lines(archive)
        change(content)
        done = import_into(write(tmp_path / "changed.jsonl.gz", content))
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert "othing was written" in done.stdout + done.stderr
        assert not any(rows(other).values())

    @pytest.mark.parametrize("cut", [0.5, 0.999])
    def test_a_file_cut_short_is_refused(
        self, archive: Path, other: str, import_into: Import, tmp_path: Path, cut: float
    ) -> None:
        content = archive.read_bytes()
        path = tmp_path / "cut.jsonl.gz"
        path.write_bytes(content[: int(len(content) * cut)])
        done = import_into(path)
        assert done.returncode == 1
        assert "cannot be read" in done.stderr
        assert not any(rows(other).values())

    def test_a_log_that_is_not_empty_is_left_alone(
        self, archive: Path, own_log: str, other: str, import_into: Import
    ) -> None:
        assert import_into(archive).returncode == 0
        before = rows(other)
        done = import_into(archive)
        assert done.returncode == 1
        assert "the log is not empty" in done.stderr
        assert rows(other) == before

    def test_only_the_owner_may(self, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [row] = store.rows_as_json("events", 1, 1)
        with pytest.raises(Exception, match="permission denied"):
            store.insert_rows("events", f"[{row}]")
