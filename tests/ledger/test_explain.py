"""Plant every kind of error in thousands of histories: the true cause is among the first three."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from ledger.domain.explain import Candidate, Entry, Refusal, Situation, explain

START = datetime(2026, 1, 1, tzinfo=UTC)
COUNTERPARTS = ("cash", "card", "bank:AB/1", "bank:CD/2", "bank:EF/3")
HISTORIES = 250
"""Per kind; with the kinds below some three thousand in all."""

Planted = tuple[Situation, int, set[int]]
"""The situation, the expected balance, and the versions of the entries at fault."""


def history(dice: random.Random) -> list[Entry]:
    """Salary and rent every month, and anything in between."""
    found: list[Entry] = []
    at = START
    salary, rent = dice.randrange(150_000, 400_000), dice.randrange(50_000, 120_000)
    for number in range(dice.randrange(30, 300)):
        at += timedelta(hours=dice.randrange(1, 60))
        if number % 12 == 3:
            delta, counterpart, note = salary, "bank:AB/1", "salary"
        elif number % 12 == 7:
            delta, counterpart, note = -rent, "bank:CD/2", "rent"
        elif number % 12 == 11:
            delta, counterpart, note = -350, "bank:own", "monthly fee"
        else:
            delta = dice.choice((1, -1, -1)) * dice.randrange(100, 90_000)
            counterpart, note = dice.choice(COUNTERPARTS), "entry"
        kind = "deposit" if delta > 0 else "withdrawal"
        found.append(entry(number + 1, delta, at, kind=kind, counterpart=counterpart, note=note))
    return found


def entry(version: int, delta: int, at: datetime, **fields: str) -> Entry:
    told = {"kind": "deposit", "counterpart": "cash", "note": "", "reverses": ""} | fields
    return Entry(
        version=version,
        delta=delta,
        transaction_id=f"t{version}",
        recorded_at=at,
        effective_at=at,
        **told,
    )


def renumbered(entries: list[Entry]) -> list[Entry]:
    return [replace(item, version=number) for number, item in enumerate(entries, 1)]


def situation(entries: list[Entry], **more: object) -> Situation:
    balance = sum(item.delta for item in entries)
    told = {"balance": balance, "available": balance, "holds": (), "entries": entries} | more
    return Situation(**told)  # type: ignore[arg-type]  # every field is given


def with_extra(entries: list[Entry], place: int, extra: Entry) -> tuple[list[Entry], set[int]]:
    return renumbered([*entries[:place], extra, *entries[place:]]), {place + 1}


def balance_of(entries: list[Entry]) -> int:
    return sum(item.delta for item in entries)


def doubled(dice: random.Random, entries: list[Entry]) -> Planted:
    place = dice.randrange(len(entries))
    twin = replace(
        entries[place],
        transaction_id="twin",
        effective_at=entries[place].effective_at + timedelta(minutes=dice.randrange(2000)),
    )
    after, _ = with_extra(entries, place + 1, twin)
    return situation(after), balance_of(entries), {place + 1, place + 2}


def missing(dice: random.Random, entries: list[Entry]) -> Planted:
    place = dice.randrange(len(entries))
    return situation(renumbered(entries[:place] + entries[place + 1 :])), balance_of(entries), set()


def unexpected(dice: random.Random, entries: list[Entry]) -> Planted:
    place = dice.randrange(len(entries))
    extra = entry(0, -dice.randrange(100, 90_000), entries[place].effective_at, kind="transfer out")
    after, versions = with_extra(entries, place, replace(extra, transaction_id="extra"))
    return situation(after), balance_of(entries), versions


def fee(dice: random.Random, entries: list[Entry]) -> Planted:
    place = dice.randrange(len(entries))
    at = entries[place].effective_at
    extra = entry(0, -dice.randrange(100, 3_000), at, kind="withdrawal", note="Overdraft fee")
    after, versions = with_extra(entries, place, replace(extra, transaction_id="extra"))
    return situation(after), balance_of(entries), versions


def reversal(dice: random.Random, entries: list[Entry]) -> Planted:
    place = dice.randrange(len(entries) - 1)
    taken = entries[place]
    extra = entry(
        0, -taken.delta, taken.effective_at, kind="reversal", reverses=taken.transaction_id
    )
    after, versions = with_extra(entries, dice.randrange(place + 1, len(entries)), extra)
    return situation(after), balance_of(entries), versions


def changed(
    dice: random.Random, entries: list[Entry], wrong: Callable[[int], int | None]
) -> Planted:
    places = list(range(len(entries)))
    dice.shuffle(places)
    for place in places:
        amount = wrong(entries[place].delta)
        if amount is not None and amount != entries[place].delta:
            after = [*entries]
            after[place] = replace(entries[place], delta=amount)
            return situation(after), balance_of(entries), {place + 1}
    raise AssertionError("no entry can carry this error")


def sign_flipped(dice: random.Random, entries: list[Entry]) -> Planted:
    return changed(dice, entries, lambda delta: -delta)


def decimal_shifted(dice: random.Random, entries: list[Entry]) -> Planted:
    return changed(dice, entries, lambda delta: delta * dice.choice((10, 100)))


def digits_swapped(dice: random.Random, entries: list[Entry]) -> Planted:
    def wrong(delta: int) -> int | None:
        digits = list(str(abs(delta)))
        at = dice.randrange(len(digits) - 1)
        digits[at], digits[at + 1] = digits[at + 1], digits[at]
        amount = int("".join(digits))
        return (amount if delta > 0 else -amount) or None

    return changed(dice, entries, wrong)


def late(dice: random.Random, entries: list[Entry]) -> Planted:
    """The customer counts entries that were recorded after the moment."""
    cut = len(entries) - dice.randrange(1, 8)
    counted = dice.randrange(cut + 1, len(entries) + 1)
    expected = balance_of(entries[:counted])
    return (
        situation(entries[:cut], later=entries[cut:]),
        expected,
        {item.version for item in entries[cut:counted]},
    )


def hold(dice: random.Random, entries: list[Entry]) -> Planted:
    held = [dice.randrange(100, 90_000) for _ in range(dice.randrange(1, 4))]
    balance = balance_of(entries)
    told = situation(entries, holds=tuple(held), available=balance - sum(held))
    return told, dice.choice((balance - sum(held), balance - held[0])), set()


def refused(dice: random.Random, entries: list[Entry]) -> Planted:
    amounts = [-dice.randrange(100, 90_000) for _ in range(5)]
    refusals = [
        Refusal(
            command_id=str(number),
            name="Withdraw",
            delta=amount,
            code="insufficient_funds",
            received_at=START,
        )
        for number, amount in enumerate(amounts)
    ]
    return situation(entries, refusals=refusals), balance_of(entries) + dice.choice(amounts), set()


def several(count: int) -> Callable[[random.Random, list[Entry]], Planted]:
    """Entries near each other that the customer does not know."""

    def plant(dice: random.Random, entries: list[Entry]) -> Planted:
        place = dice.randrange(max(0, len(entries) - 40), len(entries))
        extras = [
            replace(
                entry(0, -dice.randrange(100, 90_000), entries[place].effective_at, kind="card"),
                transaction_id=f"extra{number}",
            )
            for number in range(count)
        ]
        after = renumbered([*entries[:place], *extras, *entries[place:]])
        return situation(after), balance_of(entries), set(range(place + 1, place + 1 + count))

    return plant


KINDS = {
    "doubled": doubled,
    "missing": missing,
    "unexpected": unexpected,
    "fee": fee,
    "reversal": reversal,
    "sign_flipped": sign_flipped,
    "decimal_shifted": decimal_shifted,
    "digits_swapped": digits_swapped,
    "late": late,
    "hold": hold,
    "refused": refused,
    "pair": several(2),
    "triple": several(3),
}


def names(found: Candidate, versions: set[int]) -> bool:
    """Whether the candidate's sets hold the entries at fault."""
    if not versions:
        return True
    if found.kind == "doubled":
        return any({item.version for item in given} <= versions for given in found.sets)
    return any({item.version for item in given} == versions for given in found.sets)


class TestPlanted:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_true_cause_is_among_the_first_three(self, kind: str) -> None:
        dice = random.Random(f"explain {kind}")
        missed: Counter[str] = Counter()
        for number in range(HISTORIES):
            told, expected, versions = KINDS[kind](dice, history(dice))
            if told.balance == expected:
                continue
            first = explain(told, expected)[:3]
            if not any(item.kind == kind and names(item, versions) for item in first):
                missed[f"{number}: {[item.kind for item in first]}"] += 1
        assert not missed, f"{sum(missed.values())} of {HISTORIES}: {missed.most_common(5)}"

    def test_nothing_is_explained_when_nothing_is_wrong(self) -> None:
        told = situation(history(random.Random(1)))
        assert explain(told, told.balance) == []
