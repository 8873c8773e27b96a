"""What the account timeline shows, from the query of its URL. Reads the log; writes nothing."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from audit import proofs, seals
from ledger import codec, history, store, upcasters
from ledger.codec import RecordedEvent
from ledger.domain.events import EVENT_TYPES
from ledger.domain.money import format_amount
from ledger.domain.state import Account, evolve
from ledger.domain.times import parse_moment
from ledger.errors import InvalidInputError
from ledger.history import Moment, StateAt

AROUND = 12
"""Events shown on either side of the one at the moment."""
NAMES = ("version", "position", "as_of", "effective_as_of")
MONEY_FIELDS = frozenset({"balance", "held", "overdraft_limit"})


class EventShown(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the list around the moment, with the balance after it."""

    recorded: RecordedEvent
    kind: str
    amount: str
    balance: str
    is_selected: bool


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. Versions for stepping are None where there is none."""

    found: StateAt
    fields: list[tuple[str, str]]
    events: list[EventShown]
    selected: RecordedEvent
    upcast_steps: list[str]
    changed_fields: list[tuple[str, str, str]]
    first: int
    previous: int | None
    following: int | None
    last: int
    permanent_query: str
    proven: proofs.Proven | None
    proof_error: str
    difference: history.Difference | None
    difference_fields: list[tuple[str, str, str]]


def whole(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of at most 15 digits from a query, if given.

    Raises:
        InvalidInputError: it is not one.
    """
    text = query.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 15):
        raise InvalidInputError("must be a whole number", field=name)
    return int(text)


def moment_from(query: Mapping[str, str], *, suffix: str = "") -> Moment:
    """The moment of a query; empty values count as not given.

    Raises:
        InvalidInputError: more than one of version, position and as_of, or one that is not valid.
    """
    given = {name: query[name + suffix] for name in NAMES if query.get(name + suffix)}
    if len(given.keys() - {"effective_as_of"}) > 1:
        raise InvalidInputError("give one of version, position and as_of", field="as_of")

    def time(name: str) -> datetime | None:
        return parse_moment(given[name].strip(), field=name) if name in given else None

    return Moment(
        version=whole(given, "version"),
        position=whole(given, "position"),
        as_of=time("as_of"),
        effective_as_of=time("effective_as_of"),
    )


def shown(name: str, value: object, currency: str) -> str:
    """A state's field for people."""
    if name in MONEY_FIELDS and isinstance(value, int) and currency:
        return format_amount(value, currency)
    if isinstance(value, Mapping):  # holds
        return "; ".join(_hold_shown(key, hold, currency) for key, hold in value.items()) or "none"
    return "" if value is None else str(value)


def _hold_shown(hold_id: str, hold: Mapping[str, Any], currency: str) -> str:
    until = f" until {hold['expires_at']}" if hold["expires_at"] else ""
    return f"{format_amount(hold['amount'], currency)} for {hold['counterpart']}{until} ({hold_id})"


def _fields(account: Account) -> list[tuple[str, str]]:
    plain: dict[str, object] = msgspec.to_builtins(account)
    named = [
        (name, shown(name, value, account.currency))
        for name, value in plain.items()
        if name not in ("account_id", "next_expiry")
    ]
    available = format_amount(account.available, account.currency)
    return [*named, ("available", available)]


def _changed(before: Account, after: Account) -> list[tuple[str, str, str]]:
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    currency = after.currency
    return [
        (name, shown(name, old[name], currency), shown(name, new[name], currency))
        for name in new
        if old[name] != new[name] and name not in ("version", "next_expiry", "transactions")
    ]


def timeline_of(account_id: str, query: Mapping[str, str]) -> Timeline:
    """The timeline at the moment in `query`, compared with ``compare`` (a version) if given.

    Raises:
        LedgerError: the moment cannot be answered; the message says why.
    """
    found = history.state_at(account_id, moment_from(query))
    last = store.head_version(account_id)
    around = store.read_stream(
        account_id,
        after=max(0, found.version - 1 - AROUND),
        until=min(last, found.version + AROUND),
    )
    state = history.fold_to(account_id, around[0].version - 1)
    events: list[EventShown] = []
    before = after = state
    selected = around[0]
    for recorded in around:
        event = recorded.event
        earlier, state = state, evolve(state, event)
        is_selected = recorded.version == found.version
        if is_selected:
            before, after, selected = earlier, state, recorded
        events.append(
            EventShown(
                recorded=recorded,
                kind=event.kind,
                amount=format_amount(event.delta, state.currency) if event.delta else "",
                balance=format_amount(state.balance, state.currency),
                is_selected=is_selected,
            )
        )
    compare = whole(query, "compare")
    difference = None
    if compare is not None:
        other = Moment(version=compare)
        difference = history.difference(account_id, other, Moment(version=found.version))
    proven, proof_error = None, ""
    try:
        proven = proofs.prove(selected)
    except seals.TreeIncompleteError as error:
        proof_error = str(error)
    return Timeline(
        proven=proven,
        proof_error=proof_error,
        found=found,
        fields=_fields(found.account),
        events=events,
        selected=selected,
        upcast_steps=_steps(selected),
        changed_fields=_changed(before, after),
        first=1,
        previous=found.version - 1 if found.version > 1 else None,
        following=found.version + 1 if found.version < last else None,
        last=last,
        permanent_query=_permanent(found),
        difference=difference,
        difference_fields=_difference_fields(difference),
    )


def _permanent(found: StateAt) -> str:
    """A query that gives the same figures for ever: by version, and the effective moment if any."""
    effective = found.moment.effective_as_of
    suffix = f"&effective_as_of={codec.format_time(effective)}" if effective else ""
    return f"version={found.version}{suffix}"


def _difference_fields(difference: history.Difference | None) -> list[tuple[str, str, str]]:
    if difference is None:
        return []
    currency = difference.after.account.currency
    return [
        (name, shown(name, old, currency), shown(name, new, currency))
        for name, old, new in difference.changes
        if name != "next_expiry"
    ]


def _steps(recorded: RecordedEvent) -> list[str]:
    """The payload as stored and after each upcast step, as indented JSON."""
    payload = codec.decode_json(recorded.payload)
    if recorded.type not in EVENT_TYPES:
        return [_pretty(payload)]
    return [
        _pretty(step) for step in upcasters.upcast(recorded.type, recorded.schema_version, payload)
    ]


def _pretty(value: Any) -> str:
    return msgspec.json.format(codec.canonical(value), indent=2).decode()
