"""Replay with mended logic: the whole log folded by the code as it is, against what older code made.

Compared are heads, snapshots, and the copies that others keep (Redis).
Every account that differs is listed with where it parts. Older code is not there to be run again, so
the place is bounded by what it left: after the last state that agrees, at or before the first that
does not. Between those, a bug of `evolve` shows as the one type of event whose amounts, left out,
doubled or turned round, make just the difference: the first of them is then the first event at fault.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from ledger import history, store
from ledger.codec import RecordedEvent
from ledger.domain.state import Account, evolve

ACCOUNTS_AT_ONCE = 200
LISTED_MAX = 1000
EFFECTS = {-1: "was left out", 1: "counted twice", -2: "counted the wrong way round"}


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A state that some code made: where it lies, and after which version."""

    where: str
    version: int
    schema: str
    state: str


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose stored states are not what today's code makes.

    They part after version `agrees` and at or before `differs`; `suspect` is the event at fault as
    far as amounts tell, 0 where they do not.
    """

    account_id: str
    where: str
    schema: str
    field: str
    stored: Any
    replayed: Any
    agrees: int
    differs: int
    suspect: int = 0
    suspicion: str = ""


class Report(msgspec.Struct, kw_only=True):
    """How much was folded and compared, and who differs (LISTED_MAX of them)."""

    accounts: int = 0
    events: int = 0
    compared: int = 0
    older: int = 0
    differing: int = 0
    partings: list[Parting] = []


def replay(
    *, schema: str, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Report:
    """Fold every account; `schema` is that of today's code, to count what older code made."""
    report = Report()
    total = store.count_accounts()
    for ids in store.all_accounts(ACCOUNTS_AT_ONCE):
        stored = _stored(ids)
        for account_id, events in groupby(store.read_streams(ids), key=lambda e: e.account_id):
            report.accounts += 1
            kept = stored.get(account_id, {})
            report.older += sum(item.schema != schema for items in kept.values() for item in items)
            found = _compare(account_id, events, kept, report)
            if found is not None:
                report.differing += 1
                if len(report.partings) < LISTED_MAX:
                    report.partings.append(found)
        progress(report.accounts, total)
    return report


def _stored(ids: Sequence[str]) -> dict[str, dict[int, list[Stored]]]:
    found: dict[str, dict[int, list[Stored]]] = defaultdict(lambda: defaultdict(list))
    for account_id, item in _all_stored(ids):
        found[account_id][item.version].append(item)
    return found


def _all_stored(ids: Sequence[str]) -> Iterator[tuple[str, Stored]]:
    for account_id, version, schema, state in store.read_all_snapshots(ids):
        yield account_id, Stored(where="snapshot", version=version, schema=schema, state=state)
    for account_id, (head, _) in store.read_heads(ids).items():
        yield (
            account_id,
            Stored(where="head", version=head.version, schema=head.state_schema, state=head.state),
        )
    for name, read in history.COPIES.items():
        for account_id, copy in read(ids).items():
            if copy.version:
                yield (
                    account_id,
                    Stored(where=name, version=copy.version, schema="", state=copy.state),
                )


def _compare(
    account_id: str,
    events: Iterable[RecordedEvent],
    stored: Mapping[int, Sequence[Stored]],
    report: Report,
) -> Parting | None:
    """Fold to the end; the first state that differs, and where the events before it could be at fault."""
    account, agrees = Account(account_id=account_id), 0
    since: list[tuple[int, str, int]] = []
    found: Parting | None = None
    for recorded in events:
        event = recorded.event
        account = evolve(account, event)
        report.events += 1
        if found is None:
            since.append((recorded.version, recorded.type, event.delta))
        for item in stored.get(recorded.version, ()):
            report.compared += 1
            if found is None and (differs := _difference(item.state, account)) is not None:
                found = _parting(account_id, item, differs, agrees, since)
        if found is None and recorded.version in stored:
            agrees, since = recorded.version, []
    return found


def _difference(state: str, account: Account) -> tuple[str, Any, Any] | None:
    """The first field that differs, by the names of today's code; None if all are alike."""
    told: dict[str, Any] = msgspec.json.decode(state)
    true: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(account))
    names = sorted(true, key=lambda name: name != "balance")  # money first
    for name in names:
        if name in told and told[name] != true[name]:
            return name, told[name], true[name]
    return None


def _parting(
    account_id: str,
    item: Stored,
    differs: tuple[str, Any, Any],
    agrees: int,
    since: Sequence[tuple[int, str, int]],
) -> Parting:
    field, stored, replayed = differs
    suspect, suspicion = 0, ""
    if field == "balance":
        suspect, suspicion = _suspect(stored - replayed, since)
    if not suspect and len(since) == 1:
        suspect, suspicion = since[0][0], "the only event between"
    return Parting(
        account_id=account_id,
        where=item.where,
        schema=item.schema,
        field=field,
        stored=stored,
        replayed=replayed,
        agrees=agrees,
        differs=item.version,
        suspect=suspect,
        suspicion=suspicion,
    )


def _suspect(gap: int, since: Sequence[tuple[int, str, int]]) -> tuple[int, str]:
    """The first event of the one type whose amounts make `gap`, then of single events that do."""
    sums: dict[str, int] = defaultdict(int)
    for _, kind, delta in since:
        sums[kind] += delta
    fitting = [
        (kind, words)
        for times, words in EFFECTS.items()
        for kind, moved in sums.items()
        if moved and times * moved == gap
    ]
    if len(fitting) == 1:
        [(kind, words)] = fitting
        first = next(version for version, other, delta in since if other == kind and delta)
        return first, f"{kind} {words}"
    single = [
        (version, f"{kind} {words}")
        for times, words in EFFECTS.items()
        for version, kind, delta in since
        if delta and times * delta == gap
    ]
    return single[0] if len(single) == 1 else (0, "")
