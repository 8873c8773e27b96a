"""What did we know, and when: one account on both clocks.

Two effective moments (when it counts) and two recorded ones (when we knew) make four balances. What
differs between two that lie side by side is what was recorded in between and counts by then: those
events are listed, so that a change of an old figure is never without its cause.
"""

import msgspec

from audit.timeline import Asked
from ledger import history, store
from ledger.activity import ActivityLine, activity_lines
from ledger.errors import InvalidInputError, NotFoundError
from ledger.history import Moment, StateAt

EVENTS_MAX = 500


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """The account as known at one moment, counting by another; None where it did not exist."""

    found: StateAt | None

    @property
    def balance(self) -> int:
        """In minor units; zero before it was opened."""
        return self.found.account.balance if self.found else 0


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` are per effective moment: known at the first, known at the second, what changed."""

    currency: str
    holder: str
    known: tuple[Moment, Moment]
    rows: list[tuple[Moment, Cell, Cell, int]]
    late: list[ActivityLine]
    late_total: int
    is_complete: bool

    @property
    def adds_up(self) -> bool:
        """The listed events make the change of the last row."""
        moved = sum(line.amount for line in self.late if line.moves_money)
        return moved == self.rows[-1][3]


def known(account_id: str, asked: Asked) -> Known:
    """The four balances, and the events recorded between the two recorded moments that count.

    Raises:
        LedgerError: a moment cannot be read, lies in the future, or the order is wrong.
    """
    effective = [time for name in ("effective_a", "effective_b") if (time := asked.time(name))]
    known_a = asked.time("known_a")
    known_b = asked.time("known_b")
    if known_a is None or not effective:
        raise InvalidInputError(
            "give when it counts and when it was known",
            field="known_a" if effective else "effective_a",
        )
    if known_b is not None and known_b < known_a:
        raise InvalidInputError("must not be before the first", field="known_b")
    account, _ = history.current(account_id)
    moments = (Moment(as_of=known_a), Moment(as_of=known_b))
    rows = []
    for counts_by in sorted(effective):
        cells = [
            _cell(account_id, msgspec.structs.replace(moment, effective_as_of=counts_by))
            for moment in moments
        ]
        change = cells[1].balance - cells[0].balance
        rows.append((Moment(effective_as_of=counts_by), cells[0], cells[1], change))
    first, second = (cell.found.version if cell.found else 0 for cell in rows[-1][1:3])
    until = max(effective)
    events = store.read_stream(account_id, after=first, until=second, limit=store.PAGE)
    before = history.fold_to(account_id, first)
    lines = [
        line
        for line, event in zip(activity_lines(before, events), events, strict=True)
        if event.effective_at <= until
    ]
    return Known(
        currency=account.currency,
        holder=account.holder,
        known=moments,
        rows=rows,
        late=lines[:EVENTS_MAX],
        late_total=len(lines),
        is_complete=len(lines) <= EVENTS_MAX and len(events) == second - first,
    )


def _cell(account_id: str, moment: Moment) -> Cell:
    try:
        return Cell(found=history.state_at(account_id, moment))
    except NotFoundError:
        return Cell(found=None)
