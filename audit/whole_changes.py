"""What changed the figures of a period after they were known: the whole ledger on both clocks.

An event is in the report if it was recorded after the first moment and by the second, and counts
within the period. Its sums are what the figures of the period changed by between the two.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from audit.timeline import Asked
from ledger import csvs, history, store
from ledger.activity import other_side
from ledger.codec import RecordedEvent, format_time
from ledger.domain.money import format_amount
from ledger.domain.times import EARLIEST
from ledger.errors import InvalidInputError
from ledger.history import Moment

SHOWN_MAX = 200
EXPORTED_MAX = 50_000
COLUMNS = (
    "position", "account_id", "version", "kind", "currency", "amount", "counterpart", "transaction_id",
    "effective_at", "recorded_at", "actor",
)  # fmt: skip


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One event that moved money. `amount` is signed minor units."""

    recorded: RecordedEvent
    kind: str
    currency: str
    amount: int
    counterpart: str
    transaction_id: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The report. `sums` are per currency, type and counterpart: count and signed minor units."""

    known: tuple[datetime, datetime]
    counting: tuple[datetime | None, datetime]
    after: int
    until: int
    sums: store.Sums
    lines: list[Line]

    @property
    def total(self) -> int:
        """Events that moved money, listed or not."""
        return sum(count for _, _, _, count, _ in self.sums)


def changes(asked: Asked) -> Changes:
    """The report on ``known_a`` to ``known_b`` about what counts after ``effective_a`` through ``effective_b``.

    Raises:
        InvalidInputError: a moment is missing, cannot be read or lies in the future, or the order is
            wrong.
    """
    known_a, known_b = asked.time("known_a"), asked.time("known_b") or store.clock()
    counts_after, counts_through = asked.time("effective_a"), asked.time("effective_b")
    if known_a is None or counts_through is None:
        raise InvalidInputError("is needed", field="known_a" if known_a is None else "effective_b")
    if known_b < known_a:
        raise InvalidInputError("must not be before the first", field="known_b")
    if counts_after is not None and counts_through <= counts_after:
        raise InvalidInputError("must be after the first", field="effective_b")
    after, until = (history.check_moment(Moment(as_of=item))[0] for item in (known_a, known_b))
    first = counts_after + timedelta(microseconds=1) if counts_after else EARLIEST
    counting = (first, counts_through)
    limit = EXPORTED_MAX if asked.get("format") == "csv" else SHOWN_MAX
    sums = store.sums_between(after, until, counting)
    found = store.money_recorded_between(after, until, counting, limit=limit) if sums else []
    return Changes(
        known=(known_a, known_b),
        counting=(counts_after, counts_through),
        after=after,
        until=until,
        sums=sums,
        lines=_lines(found),
    )


def _lines(events: Sequence[RecordedEvent]) -> list[Line]:
    found = []
    for recorded in events:
        event = recorded.event
        told = msgspec.structs.asdict(event)
        found.append(
            Line(
                recorded=recorded,
                kind=event.kind,
                currency=told["currency"],
                amount=event.delta,
                counterpart=other_side(told),
                transaction_id=told["transaction_id"],
            )
        )
    return found


def as_csv(shown: Changes) -> bytes:
    """The listed events, one per line."""
    rows = [
        (
            line.recorded.position,
            line.recorded.account_id,
            line.recorded.version,
            line.kind,
            line.currency,
            format_amount(line.amount, line.currency),
            csvs.neutral(line.counterpart),
            line.transaction_id,
            format_time(line.recorded.effective_at),
            format_time(line.recorded.recorded_at),
            csvs.neutral(line.recorded.metadata.actor),
        )
        for line in shown.lines
    ]
    return csvs.write(COLUMNS, rows)
