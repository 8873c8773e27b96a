"""The database keeps the promises by itself: raw SQL as the application's role and as the owner."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.checks import run_checks

from ledger import store
from ledger.checks import check_guards
from ledger.domain import commands as c
from tests.conftest import Sender, superuser

TABLES = ["ledger_event", "ledger_command"]
Connect = Callable[[], psycopg.Connection[Any]]


def _connect(variable: str, database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ[variable].rsplit("/", 1)[0] + f"/{database}", autocommit=True)


@pytest.fixture(params=["DATABASE_URL", "DATABASE_OWNER_URL"], ids=["application", "owner"])
def raw(request: pytest.FixtureRequest, own_log: str, send_own: Sender) -> Iterator[Any]:
    """A raw connection to a log with a few events."""
    account = send_own.open(balance=1000)
    send_own(c.Withdraw(account_id=account, amount=5000, currency="EUR"))
    with _connect(request.param, own_log) as connection:
        yield connection


@pytest.fixture
def owner(own_log: str, send_own: Sender) -> Iterator[Any]:
    """The owner's connection, and an account with two events."""
    send_own.open(balance=1000)
    with _connect("DATABASE_OWNER_URL", own_log) as connection:
        yield connection


def rows(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute("SELECT * FROM ledger_event ORDER BY position").fetchall()


class TestAppendOnly:
    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE {table} SET received_at = now()",
            "UPDATE {table} SET recorded_at = now()",
            "UPDATE {table} SET recorded_at = now() WHERE false",
            "DELETE FROM {table}",
            "TRUNCATE {table}",
            "TRUNCATE {table} CASCADE",
        ],
    )
    def test_nothing_can_be_changed(self, raw: Any, table: str, statement: str) -> None:
        before = rows(raw)
        with pytest.raises(psycopg.Error):
            raw.execute(statement.format(table=table))
        assert rows(raw) == before

    def test_replication_role_does_not_open_the_door(self, own_log: str, send_own: Sender) -> None:
        send_own.open()
        with superuser(own_log) as admin:
            admin.execute("SET session_replication_role = replica")
            with pytest.raises(psycopg.errors.IntegrityError, match="append-only"):
                admin.execute("DELETE FROM ledger_event")


class TestApplicationRole:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO ledger_event SELECT * FROM ledger_event LIMIT 0",
            "INSERT INTO ledger_command SELECT * FROM ledger_command LIMIT 0",
            "UPDATE ledger_account SET state = state",
            "DELETE FROM ledger_account",
            "DELETE FROM ledger_snapshot",
            "COPY ledger_event FROM STDIN",
            "ALTER TABLE ledger_event DISABLE TRIGGER ALL",
            "DROP TRIGGER ledger_event_append_only ON ledger_event",
            "DROP TABLE ledger_event CASCADE",
            "CREATE OR REPLACE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN NEW; END $$",
            "DELETE FROM django_migrations",
            "SET ROLE ledger_owner",
        ],
    )
    def test_may_only_read_and_append(self, own_log: str, statement: str) -> None:
        with (
            _connect("DATABASE_URL", own_log) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)


INSERT = """
    INSERT INTO ledger_event (position, account_id, version, type, schema_version, payload, metadata,
        effective_at, recorded_at, leaf_hash)
    SELECT position + %(position)s, account_id, version + %(version)s, %(type)s, 1, %(payload)s::jsonb,
        coalesce(%(metadata)s::jsonb, metadata), effective_at, recorded_at + %(time)s::interval,
        %(leaf_hash)s
    FROM ledger_event ORDER BY position DESC LIMIT 1
"""
GOOD: dict[str, Any] = {
    "position": 1,
    "version": 1,
    "type": "AccountFrozen",
    "payload": '{"reason": "x"}',
    "metadata": None,
    "time": "0",
    "leaf_hash": b"x" * 32,
}


class TestInsertByTheOwner:
    def test_of_a_proper_row_is_possible(self, owner: Any) -> None:
        """So that the refusals below are for their own reason."""
        owner.execute(INSERT, GOOD)

    @pytest.mark.parametrize(
        ("change", "constraint"),
        [
            ({"position": 2}, "ledger_event_position_gapless"),
            ({"position": 0}, "ledger_event_pkey"),
            ({"version": 2}, "ledger_event_version_gapless"),
            ({"version": 0}, "ledger_event_account_version"),
            ({"time": "-1 microsecond"}, "ledger_event_time_order"),
            ({"leaf_hash": b"x" * 31}, "ledger_event_leaf_hash"),
            ({"payload": "[]"}, "ledger_event_payload"),
            ({"metadata": "{}"}, "ledger_event_metadata"),
            (
                {"type": "TransferSent", "payload": '{"transaction_id": "t", "amount": 5}'},
                "ledger_event_transfer_balances",
            ),
        ],
    )
    def test_that_breaks_a_promise_is_refused(
        self, owner: Any, change: dict[str, Any], constraint: str
    ) -> None:
        before = rows(owner)
        with pytest.raises(psycopg.errors.IntegrityError) as caught:
            owner.execute(INSERT, GOOD | change)
        assert caught.value.diag.constraint_name == constraint
        assert rows(owner) == before

    def test_of_a_new_account_starts_at_version_one(self, owner: Any) -> None:
        with pytest.raises(psycopg.errors.IntegrityError):
            owner.execute(
                INSERT.replace("account_id, version + ", f"'{uuid4()}'::uuid, version + "), GOOD
            )


class TestHeads:
    @pytest.mark.parametrize(
        ("field", "value", "constraint"),
        [
            ("balance", -1, "ledger_account_available"),
            ("held", 1001, "ledger_account_available"),
            ("held", -1, "ledger_account_held"),
            ("balance", 10**15, "ledger_account_balance"),
            ("status", "nice", "ledger_account_status"),
            ("version", 7, "ledger_account_version"),
            ("status", "closed", "ledger_account_closed_empty"),
        ],
    )
    def test_an_overdraft_is_refused_even_if_python_is_wrong(
        self, owner: Any, field: str, value: Any, constraint: str
    ) -> None:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            owner.execute(
                "UPDATE ledger_account SET state = state || %s::jsonb", [json.dumps({field: value})]
            )
        assert caught.value.diag.constraint_name == constraint


class TestLedgerAppend:
    def batch(self, account: str, expected: int, state: dict[str, Any]) -> str:
        digest = hashlib.sha256(b"x").hexdigest()
        metadata = dict.fromkeys(
            ("command_id", "actor", "correlation_id", "causation_id", "channel"), "x"
        )
        return json.dumps(
            {
                "commands": [],
                "snapshots": [],
                "events": [
                    {
                        "n": 1, "account_id": account, "version": expected + 1, "type": "AccountFrozen",
                        "schema_version": 1, "payload": {"reason": "x"}, "metadata": metadata,
                        "effective_at": "2026-01-01T00:00:00Z", "digest": digest,
                    }
                ],
                "heads": [
                    {
                        "account_id": account, "expected_version": expected, "n": 1,
                        "version": expected + 1, "state": state, "state_schema": "x",
                    }
                ],
            }
        )  # fmt: skip

    def state(self, account: str, **changes: Any) -> dict[str, Any]:
        return {
            "account_id": account, "version": 3, "status": "frozen", "holder": "", "owner": "",
            "reference": "", "currency": "EUR", "balance": 1000, "held": 0, "overdraft_limit": 0,
        } | changes  # fmt: skip

    def test_checks_the_expected_version(self, send_own: Sender) -> None:
        account = send_own.open(balance=1000)
        stale = store.append(self.batch(account, 1, self.state(account, version=2)))
        assert stale.status == "conflict"
        assert list(stale.accounts) == [account]
        assert store.append(self.batch(account, 2, self.state(account))).status == "appended"

    def test_writes_all_or_nothing(self, send_own: Sender) -> None:
        from django.db import IntegrityError

        account = send_own.open(balance=1000)
        before = store.last_position()
        with pytest.raises(IntegrityError):
            store.append(self.batch(account, 2, self.state(account, balance=-1)))
        assert store.last_position() == before

    def test_refuses_another_isolation(self, own_log: str) -> None:
        with _connect("DATABASE_URL", own_log) as connection:
            connection.execute("SET default_transaction_isolation = 'repeatable read'")
            with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED"):
                connection.execute("SELECT ledger_append('{}')")

    def test_flushes_whatever_the_session_says(self, own_log: str) -> None:
        with _connect("DATABASE_URL", own_log) as connection:
            connection.execute("SET synchronous_commit = off")
            with connection.transaction():
                connection.execute("SELECT ledger_append('{}')")
                setting = connection.execute("SHOW synchronous_commit").fetchone()
            assert setting == ("on",)


class TestChecks:
    def test_pass_on_the_migrated_database(self, own_log: str) -> None:
        assert run_checks(databases=["default"]) == []

    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("ALTER TABLE ledger_event DROP CONSTRAINT ledger_event_account_version",
             "ledger_event_account_version"),
            ("ALTER TABLE ledger_command DROP CONSTRAINT ledger_command_sender_key",
             "ledger_command_sender_key"),
            ("DROP TRIGGER ledger_event_append_only ON ledger_event", "ledger_event_append_only"),
            ("ALTER TABLE ledger_event DISABLE TRIGGER ledger_event_append_only",
             "ledger_event_append_only"),
            ("DROP INDEX ledger_event_reversed_once", "ledger_event_reversed_once"),
        ],
    )  # fmt: skip
    def test_name_what_is_missing(self, own_log: str, statement: str, name: str) -> None:
        with _connect("DATABASE_OWNER_URL", own_log) as connection:
            connection.execute(statement)
        [error] = check_guards(databases=["default"])
        assert name in error.msg
