"""Pure: why a balance is not what the customer expects. Ranks what could account for the difference.

`gap` is the ledger's balance less the expected one, in minor units. Each kind of error leaves a mark
of its own in the amounts: an entry too many makes a gap of its amount, an entry missing a gap of
minus its amount, a wrong sign twice the amount, swapped digits a multiple of nine. Every kind that
fits is one candidate with the entries that could be it, the likeliest first. Candidates come in the
order of how seldom they fit by chance, so an exact single entry stands before a sum of several.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import combinations, pairwise

import msgspec

TWIN_WITHIN = timedelta(days=7)
"""Two alike entries this near to each other may be one that was entered twice."""
TRIPLES_AMONG = 120
SUMS_SHOWN = 5
RECURS = 3
"""An amount that came this often is expected to come again."""
FEE_WORDS = ("fee", "charge", "commission", "interest", "sanc", "sluzby", "uver")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of the account. `delta` is signed; `reverses` names the transaction it takes back."""

    version: int
    kind: str
    delta: int
    counterpart: str
    note: str
    transaction_id: str
    recorded_at: datetime
    effective_at: datetime
    reverses: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was refused. `delta` is what it would have done."""

    command_id: str
    name: str
    delta: int
    code: str
    received_at: datetime


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The account at the moment that is asked about, and what came after it."""

    balance: int
    available: int
    holds: Sequence[int]
    entries: Sequence[Entry]
    later: Sequence[Entry] = ()
    refusals: Sequence[Refusal] = ()


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What could account for the gap.

    `sets` are the entries that could be it, each set by itself, the likeliest first; `right` is what
    the entry should have been, where that is known; `corrects` whether an adjustment or reversal by
    minus the gap is the remedy (a late entry or a hold needs none).
    """

    kind: str
    sets: Sequence[tuple[Entry, ...]] = ()
    refusals: Sequence[Refusal] = ()
    right: int | None = None
    corrects: bool = True


def explain(situation: Situation, expected: int) -> list[Candidate]:
    """The candidates, best first; empty when the balance is as expected."""
    gap = situation.balance - expected
    if gap == 0:
        return []
    finders = (
        _available, _late, _doubled, _refused, _reversal, _fee, _flipped, _unexpected,
        _shifted, _swapped, _recurring, _pair, _missing, _triple,
    )  # fmt: skip
    return [found for finder in finders for found in finder(situation, gap)]


def _recent(entries: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    return [(entry,) for entry in sorted(entries, key=lambda entry: -entry.version)]


def _available(situation: Situation, gap: int) -> Iterator[Candidate]:
    """The customer looks at what is available, or counts a hold as spent."""
    expected = situation.balance - gap
    if situation.holds and (expected == situation.available or gap in situation.holds):
        yield Candidate(kind="hold", corrects=False)


def _late(situation: Situation, gap: int) -> Iterator[Candidate]:
    """It came, but was recorded after the moment."""
    alone = [entry for entry in situation.later if entry.delta == -gap]
    if alone:
        yield Candidate(kind="late", sets=_recent(alone)[::-1], corrects=False)
        return
    total = 0
    for number, entry in enumerate(situation.later, 1):
        total += entry.delta
        if total == -gap:
            yield Candidate(kind="late", sets=[tuple(situation.later[:number])], corrects=False)
            return


def _standing(situation: Situation) -> list[Entry]:
    """Entries that were not taken back, and took none back."""
    taken_back = {entry.reverses for entry in situation.entries if entry.reverses}
    return [
        entry
        for entry in situation.entries
        if not entry.reverses and entry.transaction_id not in taken_back
    ]


def _doubled(situation: Situation, gap: int) -> Iterator[Candidate]:
    """Entered twice: an entry of the gap with a twin near it."""
    alike: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in _standing(situation):
        if entry.delta == gap:
            alike[entry.kind, entry.counterpart].append(entry)
    found = []
    for entries in alike.values():
        entries.sort(key=lambda entry: (entry.effective_at, entry.version))
        for one, other in pairwise(entries):
            apart = other.effective_at - one.effective_at
            if apart <= TWIN_WITHIN:
                is_same = one.note == other.note
                found.append((not is_same, apart, -other.version, one, other))
    if found:
        found.sort(key=lambda item: item[:3])
        yield Candidate(kind="doubled", sets=[(max(a, b, key=_version),) for *_, a, b in found])


def _version(entry: Entry) -> int:
    return entry.version


def _refused(situation: Situation, gap: int) -> Iterator[Candidate]:
    """The customer counts what was refused."""
    found = [refusal for refusal in situation.refusals if refusal.delta == -gap]
    if found:
        yield Candidate(kind="refused", refusals=found[::-1], corrects=False)


def _reversal(situation: Situation, gap: int) -> Iterator[Candidate]:
    """A reversal that the customer does not know of, or did not want."""
    found = [entry for entry in situation.entries if entry.reverses and entry.delta == gap]
    if found:
        yield Candidate(kind="reversal", sets=_recent(found))


def _is_fee(entry: Entry) -> bool:
    words = f"{entry.note} {entry.counterpart}".lower()
    return any(word in words for word in FEE_WORDS)


def _fee(situation: Situation, gap: int) -> Iterator[Candidate]:
    found = [entry for entry in _standing(situation) if entry.delta == gap and _is_fee(entry)]
    if found:
        yield Candidate(kind="fee", sets=_recent(found))


def _unexpected(situation: Situation, gap: int) -> Iterator[Candidate]:
    """An entry that the customer does not know: somebody else's, perhaps."""
    found = [entry for entry in _standing(situation) if entry.delta == gap and not _is_fee(entry)]
    if found:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for entry in _standing(situation):
            seen[entry.kind, entry.counterpart] += 1
        found.sort(key=lambda entry: (seen[entry.kind, entry.counterpart], -entry.version))
        yield Candidate(kind="unexpected", sets=[(entry,) for entry in found])


def _flipped(situation: Situation, gap: int) -> Iterator[Candidate]:
    """Entered with the wrong sign: twice the amount."""
    found = [entry for entry in _standing(situation) if 2 * entry.delta == gap]
    if found:
        yield Candidate(kind="sign_flipped", sets=_recent(found), right=-gap // 2)


def _mistyped(
    situation: Situation, gap: int, kind: str, is_like: Callable[[int, int], bool]
) -> Iterator[Candidate]:
    """Entries whose right amount would be theirs less the gap, if that is like theirs."""
    entries = _standing(situation)
    usual = {(entry.counterpart, entry.delta) for entry in entries}
    found = [
        entry
        for entry in entries
        if (entry.delta - gap) * entry.delta > 0
        and is_like(abs(entry.delta), abs(entry.delta - gap))
    ]
    if found:
        found.sort(
            key=lambda entry: ((entry.counterpart, entry.delta - gap) not in usual, -entry.version)
        )
        right = found[0].delta - gap
        yield Candidate(kind=kind, sets=[(entry,) for entry in found], right=right)


def _is_shifted(one: int, other: int) -> bool:
    low, high = sorted((one, other))
    return high in (low * 10, low * 100, low * 1000)


def _is_swapped(one: int, other: int) -> bool:
    """Whether two neighbouring digits of one are the other way round in the other."""
    a, b = str(one), str(other)
    width = max(len(a), len(b))
    a, b = a.zfill(width), b.zfill(width)
    at = [place for place in range(width) if a[place] != b[place]]
    return len(at) == 2 and at[1] == at[0] + 1 and a[at[0]] == b[at[1]] and a[at[1]] == b[at[0]]


def _shifted(situation: Situation, gap: int) -> Iterator[Candidate]:
    """The decimal point in the wrong place."""
    yield from _mistyped(situation, gap, "decimal_shifted", _is_shifted)


def _swapped(situation: Situation, gap: int) -> Iterator[Candidate]:
    """Two digits swapped: the gap is a multiple of nine."""
    if gap % 9 == 0:
        yield from _mistyped(situation, gap, "digits_swapped", _is_swapped)


def _alike_missing(situation: Situation, gap: int) -> list[Entry]:
    """Entries of minus the gap that keep coming from the same counterpart."""
    found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in _standing(situation):
        if entry.delta == -gap:
            found[entry.kind, entry.counterpart].append(entry)
    longest = max(found.values(), key=len, default=[])
    return longest if len(longest) >= RECURS else []


def _recurring(situation: Situation, gap: int) -> Iterator[Candidate]:
    """One of a row of like entries is not there."""
    alike = _alike_missing(situation, gap)
    if alike:
        yield Candidate(kind="missing", sets=[tuple(alike[-RECURS:])], right=-gap)


def _missing(situation: Situation, gap: int) -> Iterator[Candidate]:
    """An entry of minus the gap that nothing here knows of."""
    if not _alike_missing(situation, gap):
        yield Candidate(kind="missing", right=-gap)


def _pair(situation: Situation, gap: int) -> Iterator[Candidate]:
    """Two entries that together are the gap."""
    before: dict[int, Entry] = {}
    found: list[tuple[Entry, ...]] = []
    for entry in _standing(situation):
        other = before.get(gap - entry.delta)
        if other is not None:
            found.append((other, entry))
        before[entry.delta] = entry
    if found:
        found.sort(key=_spread)
        yield Candidate(kind="pair", sets=found[:SUMS_SHOWN])


def _triple(situation: Situation, gap: int) -> Iterator[Candidate]:
    """Three of the latest entries that together are the gap."""
    entries = _standing(situation)[-TRIPLES_AMONG:]
    place = {entry.delta: at for at, entry in enumerate(entries)}
    found: list[tuple[Entry, ...]] = []
    for (i, one), (j, other) in combinations(enumerate(entries), 2):
        at = place.get(gap - one.delta - other.delta, -1)
        if at > j > i:
            found.append((one, other, entries[at]))
    if found:
        found.sort(key=_spread)
        yield Candidate(kind="triple", sets=found[:SUMS_SHOWN])


def _spread(entries: tuple[Entry, ...]) -> tuple[int, int]:
    return (entries[-1].version - entries[0].version, -entries[-1].version)
