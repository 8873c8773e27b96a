"""Seals, receipts and the verifier, on a real log that a superuser tampers with."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client

from audit import checker, checks, notes, proofs, seals, verify
from audit.models import Node, Pass, Seal
from ledger import codec, store
from ledger.domain import commands as c
from ledger.errors import BusyError, NotFoundError
from tests.conftest import Api, Sender, superuser, user_with

NAME = "example.org/ledger"
EVENT_TABLES = ("ledger_event", "ledger_command", "audit_seal", "audit_node")


@pytest.fixture
def key(settings: Any, tmp_path: Path) -> notes.Signer:
    path = tmp_path / "seal.key"
    path.write_text(notes.Signer.generate(NAME) + "\n")
    settings.LEDGER_SEAL_KEYS = [str(path)]
    settings.LEDGER_WITNESS = str(tmp_path / "witness")
    return notes.Signer(path.read_text())


@pytest.fixture
def accounts(send_own: Sender, key: notes.Signer) -> list[str]:
    """A log of about 700 events with holds, transfers and refusals, sealed and witnessed twice."""
    ids = [send_own.open(balance=10_000) for _ in range(4)]
    move(send_own, ids, 300, seed=1)
    seals.seal()
    seals.witness()
    move(send_own, ids, 300, seed=2)
    seals.seal()
    seals.witness()
    return ids


def move(send: Sender, ids: list[str], count: int, seed: int) -> None:
    dice = random.Random(seed)
    units: list[list[Any]] = []
    for _ in range(count):
        one, other = dice.sample(ids, 2)
        amount = dice.randrange(1, 300)
        command: c.Command = dice.choice(
            [
                c.Deposit(account_id=one, amount=amount, currency="EUR", memo="in"),
                c.Withdraw(account_id=one, amount=amount * 40, currency="EUR"),
                c.Transfer(from_account_id=one, to_account_id=other, amount=amount, currency="EUR"),
                c.PlaceHold(account_id=one, amount=1, currency="EUR"),
            ]
        )
        units.append([send.wrap(command)])
    send.bus.send(units)


def witnessed(settings: Any) -> list[seals.Witnessed]:
    return seals.read_witness(seals.witness_file(Path(settings.LEDGER_WITNESS)))


class Tamper:
    """SQL as a superuser who has switched the guards off."""

    def __init__(self) -> None:
        self.connection = superuser(str(connection.settings_dict["NAME"]))
        for table in EVENT_TABLES:
            self(f"ALTER TABLE {table} DISABLE TRIGGER ALL")

    def __call__(self, sql: str, *params: Any) -> Any:
        cursor = self.connection.execute(sql, params)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture
def tamper(accounts: list[str]) -> Iterator[Tamper]:
    made = Tamper()
    yield made
    made.connection.close()


def first_finding(**options: Any) -> checks.Finding:
    report = checks.check_log(**options)
    other = checks.check_accounts()
    found = report.findings + other.findings
    assert found, "nothing was found"
    return found[0]


class TestSealing:
    def test_an_honest_log_verifies_in_full(self, accounts: list[str], settings: Any) -> None:
        report = checks.check_log(witness={"events": witnessed(settings)})
        assert report.findings == []
        assert report.covered["events"] == store.last_position() > 600
        assert report.seals == 4  # two here, the same two outside
        assert checks.check_accounts().findings == []
        first = seals.node_key("events", 1)
        kept = Node.objects.filter(key__gte=first, key__lt=first + seals.KEY_OF_LEVEL)
        assert kept.count() == store.last_position() // 256

    def test_nothing_new_makes_no_new_seal_and_no_key_makes_none(
        self, accounts: list[str], settings: Any
    ) -> None:
        newest = Seal.objects.first()
        assert seals.seal() == newest
        assert Seal.objects.count() == 2
        settings.LEDGER_SEAL_KEYS = []
        assert seals.seal() is None

    def test_the_witness_catches_up_after_an_outage(
        self, accounts: list[str], send_own: Sender, settings: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        settings.LEDGER_WITNESS = str(tmp_path / "file" / "below")  # cannot be made
        for seed in range(3):
            move(send_own, accounts, 5, seed)
            seals.seal()
            seals.witness()  # logged, not raised
        settings.LEDGER_WITNESS = str(tmp_path / "witness")
        seals.witness()
        assert [item.size for item in witnessed(settings)] == list(
            Seal.objects.order_by("size").values_list("size", flat=True)
        )

    def test_a_line_cut_by_a_crash_is_not_read_and_not_lost(
        self, accounts: list[str], send_own: Sender, settings: Any
    ) -> None:
        path = Path(settings.LEDGER_WITNESS) / "seals.jsonl"
        with path.open("a") as file:
            file.write('{"size": 99')
        move(send_own, accounts, 5, 3)
        newest = seals.seal()
        seals.witness()
        seals.witness()
        assert newest is not None
        assert newest.size in {item.size for item in witnessed(settings)}

    def test_seals_and_nodes_cannot_be_changed_or_removed(self, accounts: list[str]) -> None:
        with superuser(str(connection.settings_dict["NAME"])) as admin:
            for table in ("audit_seal", "audit_node"):
                for sql in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
                    with pytest.raises(Exception, match="append-only"):
                        admin.execute(sql)
            with pytest.raises(Exception, match="append-only"):
                admin.execute("UPDATE audit_seal SET note = ''")

    def test_a_changed_log_is_not_sealed_on(
        self, tamper: Tamper, send_own: Sender, accounts: list[str]
    ) -> None:
        tamper("UPDATE ledger_event SET leaf_hash = sha256('x') WHERE position = 5")
        tamper("DELETE FROM audit_node")
        move(send_own, accounts, 5, 3)
        with pytest.raises(seals.SealRefusedError, match="no longer have the root"):
            seals.seal()

    def test_a_restored_older_log_is_not_sealed_on(self, tamper: Tamper) -> None:
        tamper("DELETE FROM ledger_event WHERE position > 600")
        with pytest.raises(seals.SealRefusedError, match="restored to an earlier state"):
            seals.seal()


CHANGES = {
    "account_id": "account_id = gen_random_uuid()",
    "version": "version = version + 100000",
    "type": "type = 'MoneyWithdrawn'",
    "schema_version": "schema_version = schema_version + 1",
    "payload": """payload = payload || '{"amount": 1000000}'""",
    "metadata": """metadata = metadata || '{"actor": "somebody else"}'""",
    "effective_at": "effective_at = effective_at - interval '1 microsecond'",
    "recorded_at": "recorded_at = recorded_at + interval '1 microsecond'",
    "leaf_hash": "leaf_hash = sha256('x')",
}


class TestTampering:
    @pytest.mark.parametrize("column", CHANGES)
    def test_any_column_of_an_event(self, tamper: Tamper, column: str) -> None:
        [position] = tamper("SELECT max(position) FROM ledger_event WHERE type = 'MoneyDeposited'")
        tamper(f"UPDATE ledger_event SET {CHANGES[column]} WHERE position = %s", position)
        found = first_finding()
        assert found.row == f"event {position}"
        assert column in found.column or column == "leaf_hash"

    def test_every_column_of_an_event_is_covered(self, accounts: list[str]) -> None:
        from ledger.models import Event

        assert {field.name for field in Event._meta.fields} == {*CHANGES, "position"}

    def test_one_deleted(self, tamper: Tamper) -> None:
        tamper("DELETE FROM ledger_event WHERE position = 300")
        assert first_finding().row == "event 300"

    def test_two_swapped(self, tamper: Tamper) -> None:
        tamper("UPDATE ledger_event SET position = 1000000 WHERE position = 310")
        tamper("UPDATE ledger_event SET position = 310 WHERE position = 320")
        tamper("UPDATE ledger_event SET position = 320 WHERE position = 1000000")
        assert first_finding().row == "event 310"

    def test_the_tail_cut_off(self, tamper: Tamper) -> None:
        end = store.last_position()
        tamper("DELETE FROM ledger_event WHERE position > %s", end - 3)
        report = checks.check_log()
        assert [str(item) for item in report.findings][:1] == [
            f"seal of {end} events, size: the log ends at {end - 3}: its tail is gone"
        ]

    def test_the_tail_cut_off_with_its_seals_is_known_to_the_witness(
        self, tamper: Tamper, settings: Any
    ) -> None:
        end = store.last_position()
        tamper("DELETE FROM ledger_event WHERE position > %s", end - 3)
        tamper(
            "DELETE FROM ledger_command WHERE number >= "
            "(SELECT min(number) FROM ledger_command WHERE last_position > %s)",
            end - 3,
        )
        tamper("DELETE FROM audit_seal WHERE size > %s", end - 3)
        assert checks.check_log().findings == []  # from inside there is nothing to see
        found = checks.check_log(witness={"events": witnessed(settings)}).findings
        assert found[0].row == f"witnessed seal of {end} events"

    def test_all_history_rewritten_with_new_hashes_and_seals(
        self, tamper: Tamper, settings: Any
    ) -> None:
        """By somebody who even has the key. The first seal outside gives it away."""
        tamper(CHANGE_OF_HISTORY)
        for event in store.read_log(after=0):
            tamper(
                "UPDATE ledger_event SET leaf_hash = %s WHERE position = %s",
                codec.leaf_hash_of(event), event.position,
            )  # fmt: skip
        tamper(
            "UPDATE ledger_command SET body = body || '{\"amount\": 77}' WHERE first_position = 2"
        )
        for record in store.read_commands(1, store.end_of("commands")):
            tamper(
                "UPDATE ledger_command SET leaf_hash = %s WHERE number = %s",
                record.expected, record.number,
            )  # fmt: skip
        tamper("DELETE FROM audit_node")
        tamper("DELETE FROM audit_seal")
        outside = witnessed(settings)
        with pytest.raises(seals.SealRefusedError, match="no longer have the root"):
            seals.seal()  # the witness is asked before anything is signed
        settings.LEDGER_WITNESS = ""
        seals.seal()
        assert checks.check_log().findings == []
        found = checks.check_log(witness={"events": outside}).findings
        first = min(item.size for item in outside)
        assert found[0].row == f"witnessed seal of {first} events"
        assert "no longer have the root" in found[0].problem

    def test_a_snapshot(self, tamper: Tamper) -> None:
        account, version = tamper("SELECT account_id::text, version FROM ledger_snapshot LIMIT 1")
        tamper("UPDATE ledger_snapshot SET state = state || '{\"balance\": 1}'")
        found = first_finding()
        assert found.column == "state.balance"
        assert found.row.startswith("snapshot of ")
        assert checks.check_log().findings == []
        assert version == 100, account

    def test_a_head(self, tamper: Tamper, accounts: list[str]) -> None:
        tamper(
            "UPDATE ledger_account SET state = state || '{\"balance\": 123456}' WHERE id = %s",
            accounts[1],
        )
        found = first_finding()
        assert (found.row, found.column) == (f"head of {accounts[1]}", "state.balance")
        tamper("DELETE FROM ledger_account WHERE id = %s", accounts[1])
        assert str(first_finding()) == f"head of {accounts[1]}, id: is missing"

    @pytest.mark.parametrize(
        ("column", "change"),
        [
            ("actor", "actor = 'somebody else'"),
            ("channel", "channel = 'x'"),
            ("correlation_id", "correlation_id = 'x'"),
            ("body", "body = body || '{\"amount\": 5}'"),
            (
                "first_position",
                "first_position = first_position - 1, last_position = last_position - 1",
            ),
        ],
    )
    def test_a_command_record(self, tamper: Tamper, column: str, change: str) -> None:
        [command_id] = tamper(
            "SELECT id::text FROM ledger_command WHERE name = 'Deposit' AND outcome = 'accepted' "
            "ORDER BY id DESC LIMIT 1"
        )
        tamper(f"UPDATE ledger_command SET {change} WHERE id = %s", command_id)
        found = first_finding()
        assert (found.row, found.column) == (f"command {command_id}", column)

    RECORD = (
        "sender = 'x'", "idempotency_key = 'x'", "fingerprint = sha256('x')", "name = 'OpenAccount'",
        "body = body || '{\"memo\": \"x\"}'", "outcome = outcome", "actor = 'x'", "channel = 'x'",
        "error = error || '{\"code\": \"x\"}'", "account_id = gen_random_uuid()",
        "correlation_id = 'x'", "received_at = received_at + interval '1 microsecond'",
        "leaf_hash = sha256('x')", "id = gen_random_uuid()",
    )  # fmt: skip

    @pytest.mark.parametrize("change", RECORD)
    def test_any_column_of_a_refusal(self, tamper: Tamper, change: str) -> None:
        """Which no event speaks of: only its own leaf, and the seal over it, do."""
        number, command_id = tamper(
            "SELECT number, id::text FROM ledger_command WHERE outcome = 'rejected' "
            "ORDER BY number LIMIT 1"
        )
        tamper(f"UPDATE ledger_command SET {change} WHERE number = %s", number)
        found = checks.check_log().findings
        if change == "outcome = outcome":  # cannot be another: the constraint wants positions
            assert found == []
            return
        assert change.startswith("id =") or found[0].row == f"command {command_id}"
        assert change.partition(" ")[0] in found[0].column or "leaf_hash" in change

    def test_every_column_of_a_record_is_covered(self) -> None:
        from ledger.models import Command

        tried = {change.partition(" ")[0] for change in self.RECORD}
        others = {"number", "first_position", "last_position"}  # above, and by their events
        assert {field.name for field in Command._meta.fields} == tried | others

    def test_a_refusal_rewritten_with_its_leaf_is_known_to_the_seal(self, tamper: Tamper) -> None:
        seals.seal("commands")
        [number] = tamper("SELECT min(number) FROM ledger_command WHERE outcome = 'rejected'")
        tamper("UPDATE ledger_command SET actor = 'x' WHERE number = %s", number)
        leaf = store.read_commands(number, number)[0].expected
        tamper("UPDATE ledger_command SET leaf_hash = %s WHERE number = %s", leaf, number)
        rows = [item.row for item in checks.check_log().findings]
        assert rows[-1] == f"seal of {store.end_of('commands')} commands"
        tamper("DELETE FROM ledger_command WHERE number = %s", number)
        assert f"command {number}" in [item.row for item in checks.check_log().findings]

    def test_a_command_record_removed(self, tamper: Tamper) -> None:
        [command_id] = tamper("SELECT id::text FROM ledger_command WHERE first_position = 2")
        tamper("DELETE FROM ledger_command WHERE id = %s", command_id)
        assert first_finding().row == f"command {command_id}"

    def test_a_seal_and_a_node(self, tamper: Tamper) -> None:
        size = Seal.objects.order_by("size").values_list("size", flat=True)[0]
        tamper("UPDATE audit_seal SET root = sha256('x') WHERE size = %s", size)
        assert first_finding().row == f"seal of {size} events"
        tamper("UPDATE audit_seal SET note = replace(note, '\n%s\n', '\n1\n')" % size)  # noqa: UP031
        assert "signature" in first_finding().problem
        tamper("UPDATE audit_node SET hash = sha256('x') WHERE key = 281474976710656")
        assert first_finding().row == "events 1 to 256"


CHANGE_OF_HISTORY = (
    "UPDATE ledger_event SET payload = payload || '{\"amount\": 77}' WHERE position = 2"
)


class TestContinuousChecker:
    def run(self) -> Pass:
        """Slices too short for more than one step, until a pass is over."""
        while True:
            current = checker.work(budget_seconds=0)
            assert current is not None
            if current.finished_at is not None:
                return current

    def test_covers_everything_in_slices_and_begins_again(
        self, accounts: list[str], send_own: Sender, settings: Any
    ) -> None:
        settings.LEDGER_CHECK_PAUSE_SECONDS = 0
        first = self.run()
        assert (first.covered, first.accounts) == (first.ends, 4)
        assert (first.seals, first.findings) == (2, [])
        move(send_own, accounts, 1200, seed=4)
        seals.seal()
        second = checker.work(budget_seconds=0)
        assert second is not None
        move(send_own, accounts, 20, seed=5)  # grows, and is sealed, under the pass
        seals.seal()
        done = self.run()
        assert done.pk == second.pk
        assert (done.covered, done.seals, done.findings) == (done.ends, 3, [])
        settings.LEDGER_CHECK_PAUSE_SECONDS = 3600
        assert checker.work(budget_seconds=0) is None

    def test_finds_what_was_changed_behind_it_in_the_next_pass(
        self, tamper: Tamper, accounts: list[str], settings: Any
    ) -> None:
        settings.LEDGER_CHECK_PAUSE_SECONDS = 0
        assert self.run().findings == []
        tamper(CHANGE_OF_HISTORY)
        tamper('UPDATE ledger_account SET state = state || \'{"holder": "x"}\'')
        found = self.run()
        rows = [finding["row"] for finding in found.findings]
        assert rows[0] == "event 2"
        assert {f"head of {account}" for account in accounts} < set(rows)
        page = Client()
        page.force_login(user_with("auditor"))
        assert f"{found.findings_total} WRONG".encode() in page.get("/admin/audit/pass/").content
        assert b"event 2" in page.get(f"/admin/audit/pass/{found.pk}/change/").content

    def test_only_one_checks_at_a_time(self, accounts: list[str]) -> None:
        with superuser(str(connection.settings_dict["NAME"])) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [store.Lock.CHECKER])
            assert checker.work(budget_seconds=1) is None


def test_the_command_finds_the_first_wrong_row(tamper: Tamper, settings: Any) -> None:
    env = {
        **os.environ,
        "LEDGER_SEAL_KEYS": settings.LEDGER_SEAL_KEYS[0],
        "DATABASE_URL": os.environ["DATABASE_URL"].rsplit("/", 1)[0]
        + f"/{connection.settings_dict['NAME']}",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", "verify", *arguments],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    good = run()
    assert good.returncode == 0, good.stdout + good.stderr
    assert "2 seals: all hold" in good.stdout
    tamper(CHANGE_OF_HISTORY)
    bad = run("--json")
    assert bad.returncode == 1, bad.stderr
    report = json.loads(bad.stdout)
    assert report["findings"][0]["row"] == "event 2"


class TestReceipts:
    def test_a_receipt_verifies_offline_and_any_change_does_not(
        self, accounts: list[str], send_own: Sender, key: notes.Signer, tmp_path: Path
    ) -> None:
        done = send_own(
            c.Transfer(
                from_account_id=accounts[0], to_account_id=accounts[1], amount=1, currency="EUR",
                memo="für Ann",
            )
        )  # fmt: skip
        assert done.first_position is not None
        assert done.last_position is not None
        events = store.read_range(done.first_position, done.last_position)
        with pytest.raises(BusyError, match="not sealed yet"):
            proofs.receipt(done.command_id, events)
        seals.seal()
        receipt = proofs.receipt(done.command_id, events)
        path = tmp_path / "receipt.json"

        def check(changed: Any, public: str = key.public_text) -> tuple[int, str]:
            path.write_bytes(msgspec.json.encode(changed))
            answer = subprocess.run(
                [sys.executable, "-I", str(Path(verify.__file__)), str(path), "--key", public],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            return answer.returncode, answer.stdout

        code, said = check(receipt)
        assert code == 0, said
        assert "Everything holds" in said
        event = receipt["events"][0]
        for changed in (
            {**event, "position": event["position"] + 1},
            {**event, "recorded_at": "2026-01-01T00:00:00.000000Z"},
            {**event, "content": event["content"].replace('"amount":1,', '"amount":9,')},
            {**event, "proof": event["proof"][:-1]},
        ):
            code, said = check({**receipt, "events": [changed, *receipt["events"][1:]]})
            assert (code, said[:6]) == (1, "WRONG:"), said
        for broken in (
            {**receipt, "command_id": "other"},
            {**receipt, "events": []},
            {**receipt, "seal": receipt["seal"].replace(NAME, "example.net/ledger")},
        ):
            assert check(broken)[0] == 1
        assert check(receipt, notes.Signer(notes.Signer.generate(NAME)).public_text)[0] == 1
        assert check({"format": "other"})[0] == 2
        assert check(receipt, "nonsense")[0] == 2

    def test_a_later_seal_extends_an_earlier_one(self, accounts: list[str], key: Any) -> None:
        earlier, later = Seal.objects.order_by("size")
        found = proofs.consistency(earlier, later)
        said = verify.check_consistency_file(found, verify.read_key(key.public_text))
        assert "nothing before was changed" in said[0]
        swapped = {**found, "earlier": found["later"], "later": found["earlier"]}
        with pytest.raises(verify.Wrong):
            verify.check_consistency_file(swapped, verify.read_key(key.public_text))

    def test_over_rest(
        self, accounts: list[str], key: notes.Signer, settings: Any, send_own: Sender
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        as_teller, as_auditor = Api("teller"), Api("auditor")
        command_id = send_own(
            c.Deposit(account_id=accounts[0], amount=1, currency="EUR")
        ).command_id
        waiting = as_teller.get(f"commands/{command_id}/receipt")
        assert (waiting.status_code, waiting["Retry-After"]) == (503, "1")
        seals.seal()
        for api in (as_teller, as_auditor):
            receipt = api.get(f"commands/{command_id}/receipt").json()
            verify.check_receipt(receipt, verify.read_key(key.public_text))
        assert Api("customer").get(f"commands/{command_id}/receipt").status_code == 404
        refused = send_own(c.Withdraw(account_id=accounts[0], amount=10**9, currency="EUR"))
        assert as_teller.get(f"commands/{refused.command_id}/receipt").status_code == 404
        sizes = list(Seal.objects.order_by("size").values_list("size", flat=True))
        newest = as_teller.get("seal").json()
        assert newest["size"] == sizes[-1]
        assert as_teller.get(f"seal?size={sizes[0]}").json()["size"] == sizes[0]
        proof = as_teller.get(f"seal/consistency?from={sizes[0]}").json()
        verify.check_consistency_file(proof, verify.read_key(key.public_text))
        for wrong, status in (
            ("seal?size=7", 404), ("seal/consistency", 400), ("seal?size=x", 400),
            ("seal/consistency?from=7", 404), (f"seal/consistency?from={10**9}", 400),
        ):  # fmt: skip
            assert as_teller.get(wrong).status_code == status, wrong
        assert as_teller.get("verify.py").content == Path(verify.__file__).read_bytes()
        assert Api("").get("seal").status_code == 401

    def test_before_the_first_seal(self, send_own: Sender, key: notes.Signer) -> None:
        with pytest.raises(NotFoundError, match="nothing is sealed"):
            proofs.newest_seal()


def test_a_key_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    from django.core.management import CommandError, call_command

    path = tmp_path / "key"
    call_command("seal_key", NAME, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert notes.Signer(path.read_text()).name == NAME
    before = path.read_text()
    with pytest.raises(CommandError, match="never overwritten"):
        call_command("seal_key", NAME, path)
    assert path.read_text() == before
    with pytest.raises(CommandError, match="spaces or a plus"):
        call_command("seal_key", "a b", tmp_path / "other")
