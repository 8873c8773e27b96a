"""Pure: what a run of events of one account does to its projections.

Four projections move together: the account, its recent activity, its daily summary, and the totals
of its bucket. Amounts are integers of minor units.
"""

from collections.abc import Sequence
from datetime import date

import msgspec

from ledger.activity import ActivityLine, activity_line
from ledger.codec import RecordedEvent
from ledger.domain.events import AccountClosed, AccountOpened
from ledger.domain.state import Account, evolve

ACTIVITY_KEPT = 100


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """New account state, and increments for the rest. `activity` is oldest first."""

    before_version: int
    account: Account
    position: int
    activity: list[ActivityLine]
    summary: dict[str, int]
    totals: dict[str, int]


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
