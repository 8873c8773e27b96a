"""Pure: what a run of events of one account does to its projections.

Four projections move together: the account, its recent activity, its daily summary, and the totals
of its bucket. Amounts are integers of minor units.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec

from ledger import codec
from ledger.codec import RecordedEvent
from ledger.domain.events import AccountClosed, AccountOpened, Event
from ledger.domain.state import Account, evolve

ACTIVITY_KEPT = 100


class ActivityLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an account's activity, with the balance after it."""

    version: int
    position: int
    type: str
    kind: str
    amount: int
    moves_money: bool
    balance: int
    currency: str
    transaction_id: str
    counterpart: str
    note: str
    actor: str
    effective_at: str
    recorded_at: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """New account state, and increments for the rest. `activity` is oldest first."""

    before_version: int
    account: Account
    position: int
    activity: list[ActivityLine]
    summary: dict[str, int]
    totals: dict[str, int]


def activity_line(recorded: RecordedEvent, event: Event, after: Account) -> ActivityLine:
    """The line for one event; `after` is the account after it."""
    fields: dict[str, Any] = msgspec.structs.asdict(event)
    other = (
        fields.get("to_account_id") or fields.get("from_account_id") or fields.get("counterpart")
    )
    return ActivityLine(
        version=recorded.version,
        position=recorded.position,
        type=recorded.type,
        kind=event.kind,
        amount=event.delta if event.delta else fields.get("amount", 0),
        moves_money=bool(event.delta),
        balance=after.balance,
        currency=after.currency,
        transaction_id=fields.get("transaction_id") or fields.get("hold_id") or "",
        counterpart=other or "",
        note=fields.get("memo") or fields.get("reason") or "",
        actor=recorded.metadata.actor,
        effective_at=codec.format_time(recorded.effective_at),
        recorded_at=codec.format_time(recorded.recorded_at),
    )


def _add(counts: dict[str, int], name: str, amount: int) -> None:
    counts[name] = counts.get(name, 0) + amount


def project(account: Account, events: Sequence[RecordedEvent]) -> Change:
    """Fold `events`, which must continue `account` without a gap.

    Summary names are ``day|kind|n`` (count) and ``day|kind|s`` (signed sum), days in UTC by
    effective time. Totals names are ``currency|accounts``, ``currency|balances``,
    ``currency|events`` and ``currency|outside|kind of counterpart``.

    Raises:
        StateIncompleteError: an event is newer than this code.
        ValueError: the events do not continue the account.
    """
    before_version = account.version
    last = before_version + len(events)
    activity: list[ActivityLine] = []
    numbers: dict[tuple[date, str], int] = {}
    sums: dict[tuple[date, str], int] = {}
    totals: dict[str, int] = {}
    for recorded in events:
        if recorded.version != account.version + 1:
            raise ValueError(f"version {recorded.version} does not follow {account.version}")
        event = recorded.event
        account = evolve(account, event)
        if account.version > last - ACTIVITY_KEPT:
            activity.append(activity_line(recorded, event, account))
        key = (recorded.effective_at.date(), event.kind)
        numbers[key] = numbers.get(key, 0) + 1
        if event.delta:
            sums[key] = sums.get(key, 0) + event.delta
        if event.outside:
            _add(totals, f"outside|{event.outside.partition(':')[0]}", -event.delta)
        if isinstance(event, AccountOpened | AccountClosed):
            _add(totals, "accounts", 1 if account.status == "open" else -1)
    if sums:
        totals["balances"] = sum(sums.values())
    totals["events"] = len(events)
    summary = {f"{day}|{kind}|n": number for (day, kind), number in numbers.items()}
    summary |= {f"{day}|{kind}|s": amount for (day, kind), amount in sums.items()}
    return Change(
        before_version=before_version,
        account=account,
        position=events[-1].position,
        activity=activity,
        summary=summary,
        totals={f"{account.currency}|{name}": amount for name, amount in totals.items()},
    )
