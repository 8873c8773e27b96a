"""Append to the log and read it. With the migrations, the only place that speaks SQL.

Never hands out an event that is not committed, and never writes except through ``ledger_append``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum, unique
from itertools import count
from typing import Any, Literal, NamedTuple

import msgspec
import psycopg
from django.db import InterfaceError, OperationalError, connection, transaction

from ledger import codec
from ledger.codec import Metadata, RecordedEvent
from ledger.domain.events import Event
from ledger.domain.times import EARLIEST, LATEST
from ledger.errors import StoreUnavailableError

PAGE = 1000
"""Events per read of the log: the knee measured in FINDINGS."""


@unique
class Lock(IntEnum):
    """Every advisory lock there is, in one list so that no two are the same."""

    LOG = 7021996118253
    """``ledger_lock()``: all appends are serial under it."""
    RELAY = 7021996118254
    REBUILD = 7021996118255
    SEALS = 7021996118260
    CHECKER = 7021996118261
    WEBHOOKS = 7021996118262
    LOOKS = 7021996118263
    """``ledger_lock() + 10``, in ``ledger_record_access``."""


_EVENT_COLUMNS = (
    "position, account_id::text, version, type, schema_version, payload::text, metadata::text, "
    "effective_at, recorded_at, leaf_hash"
)
_metadata_decoder = msgspec.json.Decoder(Metadata)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A head row: the state text and the logic that made it."""

    account_id: str
    version: int
    state_schema: str
    state: str


class KnownCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded command, as far as idempotency needs it."""

    command_id: str
    fingerprint: bytes


class OriginalLeg(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a transaction that is about to be reversed."""

    account_id: str
    type: str
    schema_version: int
    payload: str
    reversed_by: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What `load` found. Accounts that were never opened are absent from `heads`."""

    now: datetime
    closed_through: datetime | None
    heads: dict[str, Head]
    commands: dict[tuple[str, str], KnownCommand]
    originals: dict[str, list[OriginalLeg]]


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `append`: where and when, or why nothing was written."""

    status: str
    base: int = 0
    recorded_at: int = 0
    keys: Sequence[tuple[str, str]] = ()
    accounts: Sequence[str] = ()


class _LoadedRows(msgspec.Struct):
    now: int
    closed_through: int | None
    heads: list[tuple[str, int, str, str]] | None
    commands: list[tuple[str, str, str, str]] | None
    originals: list[tuple[str, str, str, int, str, str | None]] | None


@contextmanager
def available() -> Iterator[None]:
    """Turn a lost or refused database connection into `StoreUnavailableError`.

    The dead connection is closed, so that the next use opens a new one.
    """
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        connection.close()
        raise StoreUnavailableError(
            "the database did not answer; send the same request with the same Idempotency-Key again"
        ) from error


@contextmanager
def log_lock() -> Iterator[None]:
    """A transaction that holds the log's lock: no other append can come between."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(ledger_lock())")
        yield


@contextmanager
def transaction_lock(number: int) -> Iterator[None]:
    """A transaction that holds the advisory lock `number`, waiting for it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        yield


def _call(sql: str, document: str) -> str:
    """One call with a long JSON document, sent as a parameter.

    Django would write it into the text of the statement, which the server then reads as SQL: a
    sixth of the cost of an append.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(sql, [document])
        row = cursor.fetchone()
    assert row is not None  # noqa: S101  (a function call answers one row)
    return str(row[0])


def load(
    *,
    accounts: Sequence[str],
    keys: Sequence[tuple[str, str]],
    transactions: Sequence[str] = (),
) -> Loaded:
    """Read heads, known idempotency keys and reversed transactions in one round trip."""
    request = codec.encode({"accounts": accounts, "keys": keys, "transactions": transactions})
    answer = _call("SELECT ledger_load(%s::jsonb)::text", request)
    rows = msgspec.json.decode(answer, type=_LoadedRows)
    originals: dict[str, list[OriginalLeg]] = {}
    for transaction_id, account_id, kind, schema_version, payload, reversed_by in (
        rows.originals or ()
    ):
        originals.setdefault(transaction_id, []).append(
            OriginalLeg(
                account_id=account_id,
                type=kind,
                schema_version=schema_version,
                payload=payload,
                reversed_by=reversed_by or "",
            )
        )
    return Loaded(
        now=codec.from_micros(rows.now),
        closed_through=codec.from_micros(rows.closed_through) if rows.closed_through else None,
        heads={
            row[0]: Head(account_id=row[0], version=row[1], state_schema=row[2], state=row[3])
            for row in rows.heads or ()
        },
        commands={
            (sender, key): KnownCommand(
                command_id=command_id, fingerprint=bytes.fromhex(fingerprint)
            )
            for sender, key, command_id, fingerprint in rows.commands or ()
        },
        originals=originals,
    )


def append(batch: str) -> Appended:
    """Write a decided batch (the JSON of ``ledger_append``) in one statement.

    In autocommit the answer means: committed and flushed.
    """
    answer = _call("SELECT ledger_append(%s::jsonb)::text", batch)
    return msgspec.json.decode(answer, type=Appended)


def rebuild_state(*, heads: Sequence[Any], snapshots: Sequence[Any]) -> int:
    """Replace derived states; returns how many heads were replaced."""
    batch = codec.encode({"heads": heads, "snapshots": snapshots})
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_rebuild_state(%s::jsonb)", [batch])
        return int(cursor.fetchone()[0])


def _recorded(row: Sequence[Any]) -> RecordedEvent:
    return RecordedEvent(
        position=row[0],
        account_id=row[1],
        version=row[2],
        type=row[3],
        schema_version=row[4],
        payload=row[5],
        metadata=_metadata_decoder.decode(row[6]),
        effective_at=row[7],
        recorded_at=row[8],
        leaf_hash=bytes(row[9]),
    )


def _rows(sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows, in the binary format: Django reads times as text, in Python, at half the speed."""
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(sql, params, binary=True)
        return cursor.fetchall()


def _read(sql: str, params: Sequence[Any]) -> list[RecordedEvent]:
    return [_recorded(row) for row in _rows(sql, params)]


def read_log(*, after: int, limit: int = PAGE, until: int | None = None) -> list[RecordedEvent]:
    """Events with ``after < position <= until``, in order, at most `limit`."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE position > %s AND position <= %s "  # noqa: S608
        "ORDER BY position LIMIT %s",
        [after, until if until is not None else 2**62, limit],
    )


def read_range(first: int, last: int) -> list[RecordedEvent]:
    """Events with ``first <= position <= last``, in order."""
    return read_log(after=first - 1, until=last, limit=last - first + 1)


def read_stream(
    account_id: str, *, after: int = 0, limit: int = PAGE, until: int | None = None
) -> list[RecordedEvent]:
    """Events of one account with ``after < version <= until``, in order, at most `limit`."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE account_id = %s AND version > %s "  # noqa: S608
        "AND version <= %s ORDER BY version LIMIT %s",
        [account_id, after, until if until is not None else 2**31 - 1, limit],
    )


def read_effective_between(
    account_id: str, since: datetime, until: datetime, *, limit: int
) -> list[RecordedEvent]:
    """Events of one account with ``since <= effective_at < until``, in order, at most `limit`."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE account_id = %s AND effective_at >= %s "  # noqa: S608
        "AND effective_at < %s ORDER BY version LIMIT %s",
        [account_id, since, until, limit],
    )


def read_stream_backwards(account_id: str, *, before: int, limit: int) -> list[RecordedEvent]:
    """The newest events of one account with ``version < before``, newest first."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE account_id = %s AND version < %s "  # noqa: S608
        "ORDER BY version DESC LIMIT %s",
        [account_id, before, limit],
    )


def newest_of(account_id: str) -> list[RecordedEvent]:
    """An account's last event, alone; nothing if there is no such account."""
    return read_stream_backwards(account_id, before=2**31 - 1, limit=1)


_cursor_number = count()


def read_streams(account_ids: Sequence[str]) -> Iterator[RecordedEvent]:
    """All events of several accounts, account by account, each in order; memory stays flat."""
    with (
        transaction.atomic(),
        connection.wrap_database_errors,
        psycopg.ServerCursor(connection.connection, f"streams_{next(_cursor_number)}") as cursor,
    ):
        cursor.execute(
            f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE account_id = ANY(%s::uuid[]) "  # noqa: S608
            "ORDER BY account_id, version",
            [list(account_ids)],
            binary=True,
        )
        while rows := cursor.fetchmany(PAGE):
            for row in rows:
                yield _recorded(row)


class Foldable(NamedTuple):
    """An event as far as a fold needs it: a fifth of the cost of a `RecordedEvent`."""

    version: int
    position: int
    type: str
    schema_version: int
    payload: str
    counts: bool

    @property
    def event(self) -> Event:
        """As that of `RecordedEvent`."""
        return codec.decode_event(self.type, self.schema_version, self.payload)


def read_foldable(
    account_id: str,
    *,
    after: int,
    until: int | None,
    limit: int,
    effective_until: datetime | None = None,
) -> list[Foldable]:
    """As `read_stream`. `counts` says whether the event was effective by `effective_until`."""
    rows = _rows(
        "SELECT version, position, type, schema_version, payload::text, "
        "effective_at <= coalesce(%s::timestamptz, 'infinity') FROM ledger_event "
        "WHERE account_id = %s AND version > %s AND version <= %s ORDER BY version LIMIT %s",
        [effective_until, account_id, after, until if until is not None else 2**31 - 1, limit],
    )
    return [Foldable(*row) for row in rows]


def read_version(account_id: str, version: int) -> RecordedEvent | None:
    """One event of an account."""
    events = read_stream(account_id, after=version - 1, until=version)
    return events[0] if events else None


def last_position() -> int:
    """The log's end."""
    return end_of("events")


def clock() -> datetime:
    """The database's clock; waits for nobody."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def settle() -> tuple[datetime, int]:
    """Wait for an append in flight; return the database's clock and the log's end after it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock, last_position FROM ledger_settle()")
        clock, position = cursor.fetchone()
        return clock, int(position)


def position_at(moment: datetime) -> int:
    """The last position recorded at or before `moment`; 0 before the first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_position_at(%s)", [moment])
        return int(cursor.fetchone()[0])


def positions_at(moments: Sequence[datetime]) -> list[int]:
    """`position_at` of each."""
    rows = _rows(
        "SELECT ledger_position_at(moment) FROM unnest(%s::timestamptz[]) WITH ORDINALITY "
        "AS asked (moment, number) ORDER BY number",
        [list(moments)],
    )
    return [int(position) for (position,) in rows]


def events_of_amount(amounts: Sequence[int], *, among: int) -> list[RecordedEvent]:
    """The events that moved one of these amounts of minor units, of the latest `among`, newest first."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event "  # noqa: S608
        "WHERE position > (SELECT max(position) FROM ledger_event) - %s "
        "AND payload ->> 'amount' = ANY (%s) ORDER BY position DESC LIMIT 500",
        [among, [str(sign * amount) for amount in amounts for sign in (1, -1)]],
    )


def corrections_of(transaction_id: str) -> list[tuple[str, str]]:
    """What undid a transaction: (event type, transaction id), the oldest first."""
    return _rows(
        "SELECT type, payload ->> 'transaction_id' FROM ledger_event "
        "WHERE (type = 'TransactionReversed' AND payload ->> 'reverses' = %s) "
        "OR (type = 'BalanceAdjusted' AND payload ->> 'corrects' <> '' AND payload ->> 'corrects' = %s) "
        "GROUP BY 1, 2 ORDER BY min(position)",
        [transaction_id, transaction_id],
    )


def first_effective_after(account_id: str, moment: datetime) -> int | None:
    """The version of an account's first event that counts only after `moment`."""
    [[version]] = _rows(
        "SELECT min(version) FROM ledger_event WHERE account_id = %s AND effective_at > %s",
        [account_id, moment],
    )
    return None if version is None else int(version)


class SnapshotRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored snapshot."""

    version: int
    state: str


def snapshot_before(
    account_id: str,
    *,
    state_schema: str,
    version: int | None = None,
    position: int | None = None,
) -> SnapshotRow | None:
    """The newest snapshot of `state_schema` at or before both bounds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT version, state::text FROM ledger_snapshot "
            "WHERE account_id = %s AND state_schema = %s AND version <= %s AND position <= %s "
            "ORDER BY position DESC LIMIT 1",
            [
                account_id,
                state_schema,
                version if version is not None else 2**31 - 1,
                position if position is not None else 2**62,
            ],
        )
        row = cursor.fetchone()
    return SnapshotRow(version=row[0], state=row[1]) if row else None


def read_head(account_id: str) -> tuple[Head, int] | None:
    """The head row of an account and the position of its last event."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT version, state_schema, state::text, position FROM ledger_account WHERE id = %s",
            [account_id],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    head = Head(account_id=account_id, version=row[0], state_schema=row[1], state=row[2])
    return head, int(row[3])


def accounts_due(now: datetime, limit: int) -> list[str]:
    """Accounts with a hold whose expiry may be due."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id::text FROM ledger_account WHERE next_expiry <= %s ORDER BY next_expiry "
            "LIMIT %s",
            [codec.format_time(now), limit],
        )
        return [row[0] for row in cursor.fetchall()]


FIRST_ACCOUNT = "00000000-0000-0000-0000-000000000000"
"""Before every account."""


def account_ids_after(after: str, limit: int) -> list[str]:
    """Account ids in order, from the events' heads, `after` exclusive."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id::text FROM ledger_account WHERE id > %s::uuid ORDER BY id LIMIT %s",
            [after, limit],
        )
        return [row[0] for row in cursor.fetchall()]


Sums = list[tuple[str, str, str, int, int]]


def all_accounts(size: int) -> Iterator[list[str]]:
    """The ids of all accounts in order, `size` at a time."""
    after = FIRST_ACCOUNT
    while ids := account_ids_after(after, size):
        yield ids
        after = ids[-1]


def balances_at(position: int) -> Sums:
    """Sums over the whole log up to `position`, for the trial balance: kept ones and those after them."""
    kept = last_kept_sums(position)
    return _added(kept_sums(kept), sums_between(kept, position))


SUMS_EVERY = 65_536
"""Events between kept sums: a trial balance reads at most that many."""


def kept_sums(position: int) -> Sums:
    """The sums kept at just this position, as `sums_between` gives them from the beginning."""
    return _rows(
        "SELECT currency, type, outside, count, minor::bigint FROM ledger_sum WHERE position = %s",
        [position],
    )


def last_kept_sums(until: int = 2**62) -> int:
    """The last position up to `until` with kept sums; 0 for none."""
    rows = _rows("SELECT coalesce(max(position), 0) FROM ledger_sum WHERE position <= %s", [until])
    return int(rows[0][0])


def keep_sums() -> bool:
    """Keep the next sums if the log is long enough; two at once keep the same."""
    last = last_kept_sums()
    position = last + SUMS_EVERY
    if position > last_position():
        return False
    rows = _added(kept_sums(last), sums_between(last, position))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_sum (position, currency, type, outside, count, minor) "
            "SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[]) "
            "ON CONFLICT DO NOTHING",
            [position, *columns],
        )
    return True


def _added(one: Sums, other: Sums) -> Sums:
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    for currency, kind, outside, number, minor in (*one, *other):
        counted, moved = found.get((currency, kind, outside), (0, 0))
        found[currency, kind, outside] = (counted + number, moved + minor)
    return [(*key, *value) for key, value in sorted(found.items())]


def money_recorded_between(
    after: int, until: int, counting: tuple[datetime, datetime], *, limit: int
) -> list[RecordedEvent]:
    """Events that moved money with ``after < position <= until``, counting within `counting`."""
    return _read(
        f"SELECT {_EVENT_COLUMNS} FROM ledger_event WHERE position > %s AND position <= %s "  # noqa: S608
        "AND effective_at BETWEEN %s AND %s AND payload ? 'transaction_id' ORDER BY position LIMIT %s",
        [after, until, *counting, limit],
    )


def sums_between(
    after: int, until: int, counting: tuple[datetime, datetime] = (EARLIEST, LATEST)
) -> Sums:
    """Sums over the events with ``after < position <= until`` that count within `counting`.

    Returns rows of currency, event type, outside counterpart kind, count and sum of signed minor
    units, as the events say it, folded by the database and not by `evolve`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT payload ->> 'currency', type,
                CASE
                    WHEN type = 'TransferSent' THEN
                        CASE WHEN payload ->> 'credited_currency' <> payload ->> 'currency'
                            THEN 'exchange' ELSE '' END
                    WHEN type = 'TransferReceived' THEN
                        CASE WHEN payload ->> 'sent_currency' <> payload ->> 'currency'
                            THEN 'exchange' ELSE '' END
                    ELSE split_part(payload ->> 'counterpart', ':', 1)
                END,
                count(*),
                sum(CASE WHEN type IN ('MoneyWithdrawn', 'TransferSent', 'HoldCaptured')
                    THEN -(payload ->> 'amount')::bigint ELSE (payload ->> 'amount')::bigint END)
            FROM ledger_event
            WHERE position > %s AND position <= %s AND payload ? 'transaction_id'
                AND effective_at BETWEEN %s AND %s
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """,
            [after, until, *counting],
        )
        return [(row[0], row[1], row[2], int(row[3]), int(row[4])) for row in cursor.fetchall()]


class OpenTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that somebody holds open in this database."""

    pid: int
    seconds: int
    application: str
    state: str
    query: str


def longest_transaction() -> OpenTransaction | None:
    """The transaction that is open for longest, as far as this role may see; not one's own."""
    rows = _rows(
        "SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::int, application_name, "
        "coalesce(state, ''), left(query, 200) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND xact_start IS NOT NULL AND backend_type = 'client backend' "
        "ORDER BY xact_start LIMIT 1",
        [],
    )
    for pid, seconds, application, state, query in rows:
        return OpenTransaction(
            pid=pid, seconds=seconds, application=application, state=state, query=query
        )
    return None


def missing_guards() -> list[str]:
    """Names of constraints, indexes, triggers and functions that the database should have."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT conname FROM pg_constraint
            UNION SELECT relname FROM pg_class WHERE relkind = 'i'
            UNION SELECT tgname FROM pg_trigger WHERE tgenabled = 'A'
            UNION SELECT proname FROM pg_proc
            """
        )
        present = {row[0] for row in cursor.fetchall()}
    return sorted(GUARDS - present)


GUARDS = frozenset(
    {
        "ledger_event_pkey",
        "ledger_event_account_version",
        "ledger_event_leaf_hash",
        "ledger_event_metadata",
        "ledger_event_reversed_once",
        "ledger_event_append_only",
        "ledger_event_check_inserted",
        "ledger_command_pkey",
        "ledger_command_sender_key",
        "ledger_command_append_only",
        "ledger_command_number",
        "ledger_access_append_only",
        "ledger_record_access",
        "ledger_proposal_append_only",
        "ledger_decision_append_only",
        "ledger_decision_second_person",
        "ledger_decision_maker",
        "ledger_event_check_period",
        "ledger_period_append_only",
        "ledger_period_check",
        "ledger_account_available",
        "ledger_account_held",
        "ledger_append",
        "ledger_load",
    }
)


def try_lock(number: int) -> bool:
    """Take a session-wide advisory lock if it is free."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
        return bool(cursor.fetchone()[0])


def unlock(number: int) -> None:
    """Give a session-wide advisory lock back; a lost connection has done so already."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
    except (OperationalError, InterfaceError):
        connection.close()


def read_heads(account_ids: Sequence[str]) -> dict[str, tuple[Head, int]]:
    """Heads and the positions of their last events, by account."""
    rows = _rows(
        "SELECT id::text, version, state_schema, state::text, position FROM ledger_account "
        "WHERE id = ANY(%s::uuid[])",
        [list(account_ids)],
    )
    return {
        row[0]: (Head(account_id=row[0], version=row[1], state_schema=row[2], state=row[3]), row[4])
        for row in rows
    }


def read_snapshots(
    account_ids: Sequence[str], *, state_schema: str
) -> dict[tuple[str, int], tuple[int, str]]:
    """Position and state of the accounts' snapshots, by account and version."""
    rows = _rows(
        "SELECT account_id::text, version, position, state::text FROM ledger_snapshot "
        "WHERE account_id = ANY(%s::uuid[]) AND state_schema = %s",
        [list(account_ids), state_schema],
    )
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def read_all_snapshots(account_ids: Sequence[str]) -> list[tuple[str, int, str, str]]:
    """Account, version, schema and state of the accounts' snapshots, whatever code made them."""
    rows = _rows(
        "SELECT account_id::text, version, state_schema, state::text FROM ledger_snapshot "
        "WHERE account_id = ANY(%s::uuid[])",
        [list(account_ids)],
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def accounts_without_head() -> list[str]:
    """Accounts that have events and no head."""
    rows = _rows(
        "SELECT e.account_id::text FROM ledger_event e LEFT JOIN ledger_account a "
        "ON a.id = e.account_id WHERE e.version = 1 AND a.id IS NULL",
        [],
    )
    return [row[0] for row in rows]


def commands_unlike_events(first: int, last: int) -> list[tuple[int, str, str]]:
    """Events whose command's record is missing or says something else: position, command, column."""
    rows = _rows(
        """
        SELECT e.position, e.metadata ->> 'command_id', CASE
            WHEN k.id IS NULL THEN 'id'
            WHEN k.outcome <> 'accepted' OR NOT e.position BETWEEN k.first_position AND k.last_position
                THEN 'first_position'
            WHEN k.actor <> e.metadata ->> 'actor' THEN 'actor'
            WHEN k.channel <> e.metadata ->> 'channel' THEN 'channel'
            WHEN k.correlation_id <> e.metadata ->> 'correlation_id' THEN 'correlation_id'
            ELSE 'body' END
        FROM ledger_event e
        LEFT JOIN ledger_command k ON k.id = (e.metadata ->> 'command_id')::uuid
        WHERE e.position BETWEEN %s AND %s AND (
            k.id IS NULL OR k.outcome <> 'accepted'
            OR NOT e.position BETWEEN k.first_position AND k.last_position
            OR k.actor <> e.metadata ->> 'actor' OR k.channel <> e.metadata ->> 'channel'
            OR k.correlation_id <> e.metadata ->> 'correlation_id'
            OR (e.type IN ('MoneyDeposited', 'MoneyWithdrawn', 'TransferSent', 'HoldPlaced')
                AND k.body -> 'amount' IS DISTINCT FROM e.payload -> 'amount'
                AND k.name IN ('Deposit', 'Withdraw', 'Transfer', 'PlaceHold'))
        ) ORDER BY e.position
        """,
        [first, last],
    )
    return [(row[0], row[1], row[2]) for row in rows]


def count_commanded(end: int) -> int:
    """How many events the accepted commands up to position `end` account for."""
    [[counted]] = _rows(
        "SELECT coalesce(sum(last_position - first_position + 1), 0)::bigint FROM ledger_command "
        "WHERE outcome = 'accepted' AND last_position <= %s",
        [end],
    )
    return int(counted)


@contextmanager
def single_flight(lock: int) -> Iterator[bool]:
    """Whether this session got `lock`; it is given back at the end, and by a lost connection."""
    got = try_lock(lock)
    try:
        yield got
    finally:
        if got:
            unlock(lock)


Log = Literal["events", "commands", "reads"]
"""What has gapless numbers and leaf hashes: the log itself, the commands' records, the looks."""
LOGS: tuple[Log, ...] = ("events", "commands", "reads")
_TABLES: Mapping[Log, tuple[str, str]] = {
    "events": ("ledger_event", "position"),
    "commands": ("ledger_command", "number"),
    "reads": ("ledger_access", "number"),
}


def leaf_hashes(log: Log, first: int, last: int) -> list[bytes]:
    """The leaf hashes with ``first <= number <= last``, in order."""
    table, number = _TABLES[log]
    rows = _rows(
        f"SELECT leaf_hash FROM {table} WHERE {number} BETWEEN %s AND %s ORDER BY {number}",  # noqa: S608
        [first, last],
    )
    return [row[0] for row in rows]


def unlike_log(tips: Mapping[int, bytes]) -> str:
    """How events kept elsewhere, by position and leaf hash, differ from the log; empty if they do not.

    Positions alone say nothing: a restored log grows past them with other events.
    """
    rows = _rows(
        "SELECT position, leaf_hash FROM ledger_event WHERE position = ANY(%s)", [list(tips)]
    )
    here = dict(rows)
    for position, leaf in sorted(tips.items(), reverse=True):
        if position not in here:
            return f"holds position {position} but the log ends at {last_position()}"
        if here[position] != leaf:
            return f"holds another event at position {position} than the log"
    return ""


def end_of(log: Log) -> int:
    """The last number; 0 when there is none."""
    table, number = _TABLES[log]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT coalesce(max({number}), 0) FROM {table}")  # noqa: S608
        return int(cursor.fetchone()[0])


def ends() -> dict[Log, int]:
    """The last number of every log, all as of one moment."""
    numbers = [f"(SELECT coalesce(max({n}), 0) FROM {t})" for t, n in _TABLES.values()]  # noqa: S608
    [row] = _rows(f"SELECT {', '.join(numbers)}", [])
    return dict(zip(_TABLES, row, strict=True))


def rows_as_json(log: Log, first: int, last: int) -> list[str]:
    """The rows ``first <= number <= last`` with every column, as PostgreSQL writes them as JSON."""
    table, number = _TABLES[log]
    rows = _rows(
        f"SELECT to_jsonb(t)::text FROM {table} t WHERE {number} BETWEEN %s AND %s ORDER BY {number}",  # noqa: S608
        [first, last],
    )
    return [row[0] for row in rows]


def insert_rows(log: Log, rows: str) -> None:
    """Write rows of `rows_as_json`, in a JSON array, as they are; only the owner of the tables may."""
    table, _ = _TABLES[log]
    _call(
        f"WITH done AS (INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, "  # noqa: S608
        "%s::jsonb) RETURNING 1) SELECT count(*) FROM done",
        rows,
    )


def record_access(content: Mapping[str, str | None]) -> int:
    """Record a look; see ``ledger_record_access``. Returns its number.

    Raises:
        StoreUnavailableError: it could not be recorded.
    """
    digest = codec.digest(codec.canonical(content)).hex()
    with available(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_record_access(%s::jsonb, %s)", [codec.encode(content), digest]
        )
        return int(cursor.fetchone()[0])


def versions_until(account_id: str, position: int) -> int:
    """How many events of an account lie at or before `position`."""
    [[version]] = _rows(
        "SELECT coalesce(max(version), 0) FROM ledger_event "
        "WHERE account_id = %s AND position <= %s",
        [account_id, position],
    )
    return int(version)


def accounts_between(first: int, last: int) -> list[str]:
    """The accounts that have events between two positions, in order of id."""
    rows = _rows(
        "SELECT DISTINCT account_id::text FROM ledger_event WHERE position BETWEEN %s AND %s "
        "ORDER BY 1",
        [first, last],
    )
    return [row[0] for row in rows]


def accounts_of_command(command_id: object) -> list[str]:
    """The accounts that an accepted command moved, or the one that a refused one was about."""
    rows = _rows(
        "SELECT DISTINCT coalesce(e.account_id, c.account_id)::text FROM ledger_command c "
        "LEFT JOIN ledger_event e ON e.position BETWEEN c.first_position AND c.last_position "
        "WHERE c.id = %s ORDER BY 1",
        [command_id],
    )
    return [row[0] for row in rows if row[0] is not None]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A row with a number and its leaf hash: a command's record, or a look."""

    number: int
    name: str
    leaf_hash: bytes
    expected: bytes


def read_commands(first: int, last: int) -> list[Record]:
    """The records ``first <= number <= last``; `expected` is the leaf that their columns make."""
    rows = _rows(
        "SELECT number, first_position, last_position, leaf_hash, id::text, sender, idempotency_key, "
        "encode(fingerprint, 'hex'), name, body::text, outcome, error::text, account_id::text, actor, "
        "correlation_id, channel, received_at FROM ledger_command WHERE number BETWEEN %s AND %s "
        "ORDER BY number",
        [first, last],
    )
    return [
        Record(
            number=row[0],
            name=f"command {row[4]}",
            leaf_hash=row[3],
            expected=codec.command_leaf(
                row[0], row[1], row[2], codec.digest(command_content(row[4:]))
            ),
        )
        for row in rows
    ]


def command_content(columns: Sequence[Any]) -> bytes:
    """The canonical JSON of a command's record, from its columns in the order of `COMMAND_FIELDS`."""
    record = dict(zip(COMMAND_FIELDS, columns, strict=True))
    record["body"] = codec.decode_json(record["body"])
    record["error"] = codec.decode_json(record["error"]) if record["error"] is not None else None
    record["received_at"] = codec.format_time(record["received_at"])
    return codec.canonical(record)


COMMAND_FIELDS = (
    "id", "sender", "idempotency_key", "fingerprint", "name", "body", "outcome", "error", "account_id",
    "actor", "correlation_id", "channel", "received_at",
)  # fmt: skip
ACCESS_FIELDS = ("actor", "what", "account_id", "moment", "reason", "channel", "correlation_id")


def read_accesses(first: int, last: int) -> list[Record]:
    """As `read_commands`, of looks."""
    rows = _rows(
        "SELECT number, at, leaf_hash, actor, what, account_id::text, moment, reason, channel, "
        "correlation_id FROM ledger_access WHERE number BETWEEN %s AND %s ORDER BY number",
        [first, last],
    )
    return [
        Record(
            number=row[0],
            name=f"look {row[0]}",
            leaf_hash=row[2],
            expected=codec.leaf_hash(
                row[0],
                row[1],
                codec.digest(codec.canonical(dict(zip(ACCESS_FIELDS, row[3:], strict=True)))),
            ),
        )
        for row in rows
    ]


def count_accounts() -> int:
    """How many accounts there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ledger_account")
        return int(cursor.fetchone()[0])


def head_version(account_id: str) -> int:
    """The version of an account's head; 0 when there is none."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT version FROM ledger_account WHERE id = %s", [account_id])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def account_ids_of_shard(shard: int, shards: int, after: str, limit: int) -> list[str]:
    """Account ids of one shard of `shards` (by the id's last byte), in order, `after` exclusive."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id::text FROM ledger_account WHERE id > %s::uuid "
            "AND get_byte(uuid_send(id), 15) %% %s = %s ORDER BY id LIMIT %s",
            [after, shards, shard, limit],
        )
        return [row[0] for row in cursor.fetchall()]
