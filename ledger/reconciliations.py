"""Reconcile: a bank's statement of an account against what the ledger says about it.

The statement is kept, the comparison is not: it is made anew from the log whenever it is looked at,
so that a break is gone as soon as an event resolves it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import msgspec

from ledger import access, bank_csvs, bank_files, history, privacy, store
from ledger.activity import note_of
from ledger.api.serializers import command_of
from ledger.bank_files import BankStatement, Entry
from ledger.codec import format_time
from ledger.domain.money import format_amount
from ledger.errors import ConflictError, InvalidInputError, LedgerError, NotFoundError
from ledger.history import Moment
from ledger.models import Reconciliation
from ledger.service import bus

DAYS = timedelta(days=5)
"""How far apart the bank's value date and the ledger's effective time may lie."""
EVENTS_MAX = 20_000
ATTEMPTS_MAX = 20
REFERENCE_MIN = 4
"""Characters of a bank's reference that are told apart from a word in a memo."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An event that moved money on the account. `amount` is signed minor units."""

    version: int
    transaction_id: str
    amount: int
    effective_at: datetime
    kind: str
    note: str
    reverses: str


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """What is on one side alone, or on both with other amounts."""

    entry: Entry | None = None
    move: Move | None = None

    @property
    def off(self) -> int:
        """By how much the bank's balance is higher for it."""
        return (self.entry.amount if self.entry else 0) - (self.move.amount if self.move else 0)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison. `ledger` is the balance as it counted at the end of the statement's last day."""

    matched: list[tuple[Entry, Move]]
    breaks: list[Break]
    ledger: int
    closing: int | None

    @property
    def off(self) -> int | None:
        """The bank's closing balance less the ledger's."""
        return None if self.closing is None else self.closing - self.ledger

    @property
    def before(self) -> int | None:
        """What of it no break explains: the two parted before this statement begins."""
        return None if self.off is None else self.off - sum(item.off for item in self.breaks)


def match(statement: BankStatement, moves: Sequence[Move]) -> Reconciled:
    """Pair the entries with the ledger's moves, best first; `ledger` is left at 0.

    The same amount and the bank's reference in the note; the same amount and day; the same amount
    within `DAYS`; at last the same reference and another amount, which is a break of both. A move
    and its reversal that both found no entry cancel each other.
    """
    entries, left = list(statement.entries), list(moves)
    matched: list[tuple[Entry, Move]] = []
    differ: list[Break] = []

    def pair(fits: Callable[[Entry, Move], bool], into: Callable[[Entry, Move], None]) -> None:
        for entry in list(entries):
            near = [move for move in left if fits(entry, move)]
            if near:
                best = min(near, key=lambda move: abs(move.effective_at - entry.value))
                entries.remove(entry)
                left.remove(best)
                into(entry, best)

    def keep(entry: Entry, move: Move) -> None:
        matched.append((entry, move))

    pair(lambda e, m: e.amount == m.amount and _refers(e, m) and _near(e, m, DAYS), keep)
    pair(lambda e, m: e.amount == m.amount and _near(e, m, timedelta(days=1)), keep)
    pair(lambda e, m: e.amount == m.amount and _near(e, m, DAYS), keep)
    pair(
        lambda e, m: _refers(e, m) and _near(e, m, DAYS),
        lambda e, m: differ.append(Break(entry=e, move=m)),
    )
    # Banks date the opening balance by the first day, or by the day before it.
    is_first_day = any(entry.booked <= statement.opened for entry in statement.entries)
    since = statement.opened + timedelta(days=not is_first_day)
    undone = {move.reverses for move in left} & {move.transaction_id for move in left}
    breaks = [
        *differ,
        *(Break(entry=entry) for entry in entries),
        *(
            Break(move=move)
            for move in left
            if not {move.transaction_id, move.reverses} & undone
            and since <= move.effective_at < statement.closed + timedelta(days=1)
        ),
    ]
    return Reconciled(matched=matched, breaks=breaks, ledger=0, closing=statement.closing)


def _refers(entry: Entry, move: Move) -> bool:
    return len(entry.reference) >= REFERENCE_MIN and entry.reference in move.note


def _near(entry: Entry, move: Move, within: timedelta) -> bool:
    days = (entry.value, entry.booked)
    return min(abs(move.effective_at - day) for day in days) < within


def start(user: Any, account_id: str, file_name: str, content: bytes) -> Reconciliation:
    """Keep a bank's statement of an account, for comparison.

    A file may hold several statements of the one account, each continuing the last.

    Raises:
        InvalidInputError: it cannot be read, or is about another currency or several accounts.
        NotFoundError: no such account.
    """
    account, _ = history.current(account_id)
    if bank_files.is_bank_file(content):
        statements = bank_files.read(content)
    else:
        number = account.reference or account_id
        statements = bank_csvs.read(content, account=number, currency=account.currency)
    first, last = statements[0], statements[-1]
    for statement in statements:
        if statement.account != first.account:
            raise InvalidInputError(
                f"is about several accounts, {first.account} and {statement.account}", field="file"
            )
        if statement.currency != account.currency:
            raise InvalidInputError(
                f"is in {statement.currency}, and this account in {account.currency}", field="file"
            )
    for earlier, later in pairwise(statements):
        if None not in (earlier.closing, later.opening) and earlier.closing != later.opening:
            raise InvalidInputError(
                "its statements do not continue each other: "
                f"{format_amount(earlier.closing or 0, account.currency)} is followed by "
                f"{format_amount(later.opening or 0, account.currency)}",
                field="file",
            )
    entries = [entry for statement in statements for entry in statement.entries]
    whole = msgspec.structs.replace(
        first,
        closing=last.closing,
        closed=max(statement.closed for statement in statements),
        entries=[
            msgspec.structs.replace(entry, number=number) for number, entry in enumerate(entries, 1)
        ],
    )
    return Reconciliation.objects.create(
        id=str(uuid4()),
        account_id=account_id,
        file_name=file_name[:200],
        statement=_sealed(account_id, whole),
        made_by=user.get_username(),
    )


def find(reconciliation_id: str) -> Reconciliation:
    """The kept statement.

    Raises:
        NotFoundError: there is none.
    """
    found = Reconciliation.objects.filter(pk=reconciliation_id).first()
    if found is None:
        raise NotFoundError(f"reconciliation {reconciliation_id} does not exist")
    return found


def statement_of(kept: Reconciliation) -> BankStatement:
    """The bank's statement."""
    sealed = kept.statement.get("sealed")
    if sealed is None:
        return msgspec.convert(kept.statement, BankStatement)
    text = privacy.reveal(sealed)
    if text in (privacy.ERASED, privacy.UNREADABLE):
        raise NotFoundError("what the statement said was erased with the holder's data")
    return msgspec.json.decode(text, type=BankStatement)


def _sealed(account_id: str, statement: BankStatement) -> dict[str, Any]:
    """As it is stored: it is full of names."""
    if not privacy.is_on():
        kept: dict[str, Any] = msgspec.to_builtins(statement)
        return kept
    return {"sealed": privacy.seal(account_id, msgspec.json.encode(statement).decode())}


def compare(kept: Reconciliation) -> Reconciled:
    """The statement against the ledger as it is now."""
    statement, account_id = statement_of(kept), str(kept.account_id)
    found = match(statement, _moves(account_id, statement))
    until = min(statement.closed + timedelta(days=1, microseconds=-1), store.clock())
    try:
        ledger = history.state_at(account_id, Moment(effective_as_of=until)).account.balance
    except NotFoundError:  # opened later than the statement
        ledger = 0
    return msgspec.structs.replace(found, ledger=ledger)


def _moves(account_id: str, statement: BankStatement) -> list[Move]:
    days = [statement.opened, statement.closed, *(entry.value for entry in statement.entries)]
    since, until = min(days) - DAYS, max(days) + DAYS + timedelta(days=1)
    recorded = store.read_effective_between(account_id, since, until, limit=EVENTS_MAX + 1)
    if len(recorded) > EVENTS_MAX:
        raise InvalidInputError(
            f"the ledger has more than {EVENTS_MAX} events around this statement: "
            "use statements of shorter periods",
            field="file",
        )
    moves = []
    for item in recorded:
        event = item.event
        if event.delta:
            told: dict[str, Any] = msgspec.structs.asdict(event)
            moves.append(
                Move(
                    version=item.version,
                    transaction_id=told["transaction_id"],
                    amount=event.delta,
                    effective_at=item.effective_at,
                    kind=event.kind,
                    note=privacy.reveal(note_of(told)),
                    reverses=told.get("reverses", ""),
                )
            )
    return moves


def enter(user: Any, kept: Reconciliation, numbers: Sequence[int]) -> tuple[int, list[str]]:
    """Deposit or withdraw what the ledger lacks; how many that were, and what was refused.

    Only entries that are still breaks are taken, and each at most once: its key is its number.
    """
    missing = {
        item.entry.number: item.entry
        for item in compare(kept).breaks
        if item.entry is not None and item.move is None
    }
    statement, account_id = statement_of(kept), str(kept.account_id)
    entered, refused = 0, []
    for number in numbers:
        entry = missing.get(number)
        if entry is None:
            continue
        try:
            outcome = _send(user, kept, statement, account_id, entry)
        except LedgerError as error:
            refused.append(f"entry {number}: {error.with_field}")
        else:
            entered += outcome is None
            if outcome is not None:
                refused.append(f"entry {number}: {outcome.detail}")
    return entered, refused


def _send(
    user: Any, kept: Reconciliation, statement: BankStatement, account_id: str, entry: Entry
) -> LedgerError | None:
    body = {
        "amount": format_amount(abs(entry.amount), statement.currency),
        "currency": statement.currency,
        "counterpart": "bank",
        "memo": memo_of(entry),
        "effective_at": format_time(entry.value),
    }
    name = "Deposit" if entry.amount > 0 else "Withdraw"
    command, said = command_of(name, body, {"account_id": account_id})
    access.check_command(user, command)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        # A refusal stays under its key: what was mended since is another attempt.
        key = f"reconciliation/{kept.pk}/{entry.number}/{attempt}"
        outcome = bus.send_one(
            access.envelope_for(
                user, command, said, key=key, channel="page", causation_id=str(kept.pk)
            )
        )
        if outcome.error is None or not outcome.replayed:
            return outcome.error
    raise ConflictError(f"was refused {ATTEMPTS_MAX} times")


def memo_of(entry: Entry) -> str:
    """What an event says that resolves it: the bank's reference first, so that the two are paired."""
    told = " ".join(filter(None, (entry.reference, entry.memo))) or "from the bank's statement"
    return told[: bank_files.MEMO_MAX]
