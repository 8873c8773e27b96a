"""deploy/partition.sql on a small log: everything goes on, and every guard stands on every partition."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit import checks
from ledger import history, store
from ledger.domain import commands as c
from ledger.history import Moment
from tests.conftest import Sender, superuser

SCRIPT = (Path(__file__).parents[2] / "deploy" / "partition.sql").read_text()
BOUNDARY = 60
COLUMNS = (
    "position, account_id, version, type, schema_version, payload, metadata, effective_at, "
    "recorded_at, leaf_hash"
)


@pytest.fixture
def parted(own_log: str, send_own: Sender) -> Any:
    """A log of 50 events, partitioned at 60; its accounts."""
    accounts = [send_own.open(balance=1000) for _ in range(5)]
    for _ in range(4):
        for account in accounts:
            send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
    for account in accounts:
        send_own(c.Withdraw(account_id=account, amount=1, currency="EUR"))
    while store.last_position() < 50:
        send_own(c.Deposit(account_id=accounts[0], amount=1, currency="EUR"))
    with owner(own_log) as connection:
        connection.execute(SCRIPT.replace(":boundary", str(BOUNDARY)))
    return accounts


def owner(name: str) -> psycopg.Connection[Any]:
    connection = superuser(name)
    connection.execute("SET ROLE ledger_owner")
    return connection


def traffic(send: Sender, accounts: list[str], until: int) -> None:
    while store.last_position() < until:
        for payer, payee in zip(accounts, accounts[1:] + accounts[:1], strict=True):
            command = c.Transfer(
                from_account_id=payer, to_account_id=payee, amount=1, currency="EUR"
            )
            assert send(command).error is None


def test_the_log_goes_on_over_the_boundary(
    parted: list[str], own_log: str, send_own: Sender
) -> None:
    early = send_own(c.Deposit(account_id=parted[0], amount=9, currency="EUR"))
    before = history.state_at(parted[1], Moment(position=50))
    traffic(send_own, parted, 3 * BOUNDARY // 2)
    with owner(own_log) as connection:
        added = connection.execute("SELECT ledger_add_partition(%s)", [10 * BOUNDARY]).fetchone()
        assert added == ("ledger_event_3",)
    traffic(send_own, parted, 3 * BOUNDARY)
    with superuser(own_log) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM ledger_event_{number}").fetchone()
            for number in (1, 2, 3)
        ]
    assert counts[:2] == [(BOUNDARY - 1,), (BOUNDARY,)]
    last = store.last_position()
    assert [item.position for item in store.read_log(after=0)] == list(range(1, last + 1))
    assert history.state_at(parted[1], Moment(position=50)).account == before.account
    undone = c.ReverseTransaction(transaction_id=early.command_id, reason="x")
    assert send_own(undone).error is None
    again = send_own(undone).error
    assert again is not None
    assert again.code == "already_reversed"
    moments = [item.recorded_at for item in store.read_log(after=0)]
    assert store.position_at(moments[BOUNDARY]) >= BOUNDARY
    assert checks.check_log().findings == []
    assert checks.check_accounts().findings == []


GUARDED = [
    ("UPDATE {table} SET version = version", "append_only"),
    ("DELETE FROM {table}", "append_only"),
    ("TRUNCATE {table}", "append_only"),
]


@pytest.mark.parametrize("table", ["ledger_event", "ledger_event_1", "ledger_event_2"])
def test_nobody_changes_a_partition(
    parted: list[str], own_log: str, send_own: Sender, table: str
) -> None:
    traffic(send_own, parted, BOUNDARY + 20)
    with owner(own_log) as connection:
        for sql, constraint in GUARDED:
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation) as refused:
                connection.execute(sql.format(table=table))
            assert str(refused.value.diag.constraint_name).endswith(constraint)
        connection.execute("RESET ROLE")
        connection.execute("SET ROLE ledger_app")
        if table != "ledger_event":
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT 1 FROM {table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"INSERT INTO {table} SELECT * FROM ledger_event LIMIT 1")


@pytest.mark.parametrize("table", ["ledger_event", "ledger_event_2"])
@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"position": "position + 2", "version": "version + 1"}, "position_gapless"),
        ({"position": "position + 1", "version": "2"}, "version_gapless"),
        (
            {"position": "position + 1", "version": "version + 1", "recorded_at": "'2020-01-01'",
             "effective_at": "'2020-01-01'"},
            "time_order",
        ),
        (
            {"position": "position + 1", "version": "version + 1", "type": "'TransactionReversed'",
             "payload": """jsonb_build_object('reverses', 't', 'amount', 1, 'currency', 'EUR')"""},
            "reversed_once",
        ),
    ],
)  # fmt: skip
def test_what_the_log_refuses_it_refuses_across_partitions(
    parted: list[str], own_log: str, send_own: Sender, table: str, columns: dict[str, str], constraint: str
) -> None:  # fmt: skip
    """The last event once more, a little otherwise; one reversal lies in the first partition already."""
    with owner(own_log) as connection:
        if constraint == "reversed_once":
            put(connection, "ledger_event", columns)
        while store.last_position() < BOUNDARY + 5:
            put(connection, "ledger_event", {"position": "position + 1", "version": "version + 1",
                                             "type": "'HoldReleased'"})  # fmt: skip
        with pytest.raises(
            (psycopg.errors.IntegrityConstraintViolation, psycopg.errors.UniqueViolation)
        ) as refused:
            put(connection, table, columns)
        assert str(refused.value.diag.constraint_name).endswith(constraint)


def put(connection: psycopg.Connection[Any], table: str, columns: dict[str, str]) -> None:
    values = ", ".join(columns.get(name, name) for name in COLUMNS.split(", "))
    connection.execute(
        f"INSERT INTO {table} ({COLUMNS}) "
        f"SELECT {values} FROM ledger_event ORDER BY position DESC LIMIT 1"
    )
