"""Pure: one event of an account as a line for people, with the balance after it."""

from collections.abc import Iterable, Iterator
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


def activity_lines(account: Account, events: Iterable[RecordedEvent]) -> Iterator[ActivityLine]:
    """The lines of consecutive events that continue `account`."""
    for recorded in events:
        event = recorded.event
        account = evolve(account, event)
        yield activity_line(recorded, event, account)
