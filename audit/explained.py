"""Explain a balance: the account's history as `ledger.domain.explain` wants it, and its answer shown."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from audit.timeline import Asked, whole
from ledger import history, privacy, store
from ledger.activity import note_of, other_side
from ledger.codec import RecordedEvent
from ledger.domain import explain as x
from ledger.domain.money import format_amount, parse_signed
from ledger.history import StateAt
from ledger.models import Command

ENTRIES_MAX = 5_000
"""Events that are searched at once, the latest first; most often what is older was agreed to long since."""
LATER_MAX = 200
REFUSALS_MAX = 200
SETS_SHOWN = 10
_GROUPED = re.compile(r"[-\u2212]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)

WORDS: Mapping[str, tuple[str, str]] = {
    "hold": ("Held, not spent", "The expected figure leaves out what is reserved: it is the available amount, or one hold less."),
    "late": ("Recorded later", "It came after this moment. The balance is as expected once these are in."),
    "doubled": ("Entered twice", "The same amount from or to the same counterpart, days apart at most."),
    "refused": ("Refused", "It was tried and refused, so it never happened here."),
    "reversal": ("A reversal", "It took back a transaction that the expected figure counts."),
    "fee": ("A fee or interest", "Taken by the bank, and easily forgotten."),
    "sign_flipped": ("The wrong way round", "It should have gone the other way: the difference is twice the amount."),
    "unexpected": ("Not expected", "One entry is exactly the difference: perhaps somebody else's."),
    "decimal_shifted": ("Decimal point misplaced", "With the point elsewhere the amount would fit."),
    "digits_swapped": ("Two digits swapped", "With two neighbouring digits the other way round the amount would fit."),
    "missing": ("Missing", "An entry of exactly the difference is not there."),
    "pair": ("Two entries together", "Their sum is the difference."),
    "triple": ("Three entries together", "Their sum is the difference."),
}  # fmt: skip


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `gap` is the ledger's balance less the expected one; `older` and `newer` were not searched."""

    found: StateAt
    expected: int
    gap: int
    candidates: list[tuple[str, str, x.Candidate]]
    searched: int
    older: int
    newer: int

    @property
    def correction(self) -> str:
        """The amount of an adjustment that makes the balance what was expected."""
        return format_amount(-self.gap, self.found.account.currency)


def explain(account_id: str, asked: Asked) -> Explained:
    """What could account for the balance at a moment not being ``expected``.

    Raises:
        LedgerError: the moment or the expected balance is not valid.
    """
    found = history.state_at(account_id, asked.moment())
    account, text = found.account, asked.get("expected")
    if _GROUPED.fullmatch(text):  # as the pages show it; a lone comma may be a decimal point
        text = text.replace(",", "")
    expected = parse_signed(text.replace("\u2212", "-"), account.currency, field="expected")
    end = min(found.version, (whole(asked.given, "before") or found.version + 1) - 1)
    after = max(0, end - ENTRIES_MAX)
    events = store.read_stream(account_id, after=after, until=end, limit=ENTRIES_MAX)
    later = store.read_stream(account_id, after=found.version, limit=LATER_MAX)
    until = found.moment.effective_as_of
    if until is not None:
        later = [event for event in events if event.effective_at > until] + later
        events = [event for event in events if event.effective_at <= until]
    situation = x.Situation(
        balance=account.balance,
        available=account.available - account.overdraft_limit,
        holds=[hold.amount for hold in account.holds.values()],
        entries=_entries(events),
        later=_entries(later),
        refusals=_refusals(account_id, found.recorded_at),
    )
    return Explained(
        found=found,
        expected=expected,
        gap=account.balance - expected,
        candidates=[
            (*WORDS[item.kind], msgspec.structs.replace(item, sets=item.sets[:SETS_SHOWN]))
            for item in x.explain(situation, expected)
        ],
        searched=len(events),
        older=after,
        newer=found.version - end,
    )


def _entries(events: Sequence[RecordedEvent]) -> list[x.Entry]:
    found = []
    for recorded in events:
        event = recorded.event
        if not event.delta:
            continue
        told: dict[str, Any] = msgspec.structs.asdict(event)
        found.append(
            x.Entry(
                version=recorded.version,
                kind=event.kind,
                delta=event.delta,
                counterpart=other_side(told),
                note=privacy.reveal(note_of(told)),
                transaction_id=told["transaction_id"],
                recorded_at=recorded.recorded_at,
                effective_at=recorded.effective_at,
                reverses=told.get("reverses", ""),
            )
        )
    return found


_SIGNS = {"Deposit": 1, "Withdraw": -1, "Transfer": -1, "AdjustBalance": 1}


def _refusals(account_id: str, until: datetime | None) -> list[x.Refusal]:
    rows = Command.objects.filter(account_id=account_id, outcome="rejected").order_by("-id")
    return [
        x.Refusal(
            command_id=str(row.pk),
            name=row.name,
            delta=_SIGNS[row.name] * int(row.body["amount"]),
            code=(row.error or {}).get("code", ""),
            received_at=row.received_at,
        )
        for row in rows[:REFUSALS_MAX]
        if row.name in _SIGNS and isinstance(row.body.get("amount"), int)
    ][::-1]
