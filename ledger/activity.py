"""Pure: one event of an account as a line for people, with the balance after it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ledger import codec
from ledger.codec import RecordedEvent
from ledger.domain.events import Event
from ledger.domain.state import Account, evolve


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


def other_side(fields: Mapping[str, Any]) -> str:
    """Where an event's money came from or went to: an account or a counterpart; empty for neither."""
    names = ("to_account_id", "from_account_id", "counterpart")
    return next((str(fields[name]) for name in names if fields.get(name)), "")


def note_of(fields: Mapping[str, Any]) -> str:
    """What was said about an event."""
    return str(fields.get("memo") or fields.get("reason") or "")


def activity_line(recorded: RecordedEvent, event: Event, after: Account) -> ActivityLine:
    """The line for one event; `after` is the account after it."""
    fields: dict[str, Any] = msgspec.structs.asdict(event)
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
        counterpart=other_side(fields),
        note=note_of(fields),
        actor=recorded.metadata.actor,
        effective_at=codec.format_time(recorded.effective_at),
        recorded_at=codec.format_time(recorded.recorded_at),
    )


def activity_lines(account: Account, events: Iterable[RecordedEvent]) -> Iterator[ActivityLine]:
    """The lines of consecutive events that continue `account`."""
    for recorded in events:
        event = recorded.event
        account = evolve(account, event)
        yield activity_line(recorded, event, account)
