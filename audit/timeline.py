"""What the account timeline shows, from the query of its URL. Reads the log; writes nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec

from audit import proofs, seals
from audit.spoken import parse_spoken
from ledger import codec, history, store, upcasters
from ledger.activity import ActivityLine, activity_lines
from ledger.codec import RecordedEvent
from ledger.domain.events import EVENT_TYPES
from ledger.domain.money import format_amount
from ledger.domain.state import Account, evolve, fold
from ledger.errors import InvalidInputError
from ledger.history import Moment, StateAt

CHARTED = 400
"""Events drawn on either side of the one at the moment."""
AROUND = 12
"""Events shown on either side of the one at the moment."""
NAMES = ("version", "position", "as_of", "effective_as_of", "compare")
MONEY_FIELDS = frozenset({"balance", "held", "overdraft_limit"})


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two moments side by side. `movements` is the sum of the listed events' amounts."""

    difference: history.Difference
    fields: list[tuple[str, str, str]]
    lines: list[ActivityLine]
    movements: int
    is_complete: bool

    @property
    def adds_up(self) -> bool:
        """Opening plus movements is closing."""
        before, after = self.difference.before.account, self.difference.after.account
        return before.balance + self.movements == after.balance


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. Versions for stepping are None where there is none."""

    found: StateAt
    fields: list[tuple[str, str]]
    lines: list[ActivityLine]
    chart: dict[str, Any]
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
    compared: Compared | None


def whole(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of at most 15 digits from a query, if given.

    Raises:
        InvalidInputError: it is not one.
    """
    text = query.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 15):
        raise InvalidInputError("must be a whole number", field=name)
    return int(text)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A page's question as typed, by name, and the reader's zone."""

    given: Mapping[str, str]
    zone: ZoneInfo

    def get(self, name: str) -> str:
        """What was typed, without spaces around it; empty if nothing."""
        return self.given.get(name, "").strip()

    def time(self, name: str) -> datetime | None:
        """The moment typed, if any.

        Raises:
            InvalidInputError: it cannot be read.
        """
        text = self.get(name)
        if not text:
            return None
        return parse_spoken(text, zone=self.zone, now=store.clock(), field=name)

    def moment(self) -> Moment:
        """The moment asked about.

        Raises:
            InvalidInputError: more than one of version, position and as_of, or a bad one.
        """
        if sum(bool(self.get(name)) for name in ("version", "position", "as_of")) > 1:
            raise InvalidInputError("give one of version, position and as_of", field="as_of")
        return Moment(
            version=whole(self.given, "version"),
            position=whole(self.given, "position"),
            as_of=self.time("as_of"),
            effective_as_of=self.time("effective_as_of"),
        )

    def other(self, name: str) -> Moment | None:
        """Another moment, a version or a time, if any."""
        text = self.get(name)
        if not text:
            return None
        if text.isascii() and text.isdigit():
            return Moment(version=whole({name: text}, name))
        return Moment(as_of=self.time(name))


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


def timeline_of(account_id: str, asked: Asked) -> Timeline:
    """The timeline at the moment asked about, compared with the other one if given.

    Raises:
        LedgerError: the moment cannot be answered; the message says why.
    """
    found = history.state_at(account_id, asked.moment())
    last = store.head_version(account_id)
    first = max(1, found.version - CHARTED)
    around = store.read_stream(
        account_id, after=first - 1, until=min(last, found.version + CHARTED), limit=2 * CHARTED + 1
    )
    start = history.fold_to(account_id, first - 1)
    lines = list(activity_lines(start, around))
    at = found.version - first
    selected = around[at]
    before = fold(start, [event.event for event in around[:at]])
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
        lines=lines[max(0, at - AROUND) : at + AROUND + 1],
        chart=_chart(lines, found.version),
        selected=selected,
        upcast_steps=_steps(selected),
        changed_fields=_changed(before, evolve(before, selected.event)),
        first=1,
        previous=found.version - 1 if found.version > 1 else None,
        following=found.version + 1 if found.version < last else None,
        last=last,
        permanent_query=_permanent(found, asked.zone),
        compared=_compared(account_id, found, asked.other("compare")),
    )


def _chart(lines: Sequence[ActivityLine], selected: int) -> dict[str, Any]:
    """For uPlot: balances in minor units after each event."""
    return {
        "versions": [line.version for line in lines],
        "balances": [line.balance for line in lines],
        "kinds": [line.kind for line in lines],
        "selected": selected,
    }


def _compared(account_id: str, found: StateAt, other: Moment | None) -> Compared | None:
    if other is None:
        return None
    difference = history.difference(account_id, other, Moment(version=found.version))
    before, after = difference.before.account, difference.after.account
    lines = list(activity_lines(before, difference.events))
    return Compared(
        difference=difference,
        fields=[
            (name, shown(name, old, after.currency), shown(name, new, after.currency))
            for name, old, new in difference.changes
            if name != "next_expiry"
        ],
        lines=lines,
        movements=sum(line.amount for line in lines if line.moves_money),
        is_complete=len(lines) == difference.events_total,
    )


def _permanent(found: StateAt, zone: ZoneInfo) -> str:
    """A query that gives the same page for ever: by version, the effective moment if any, the zone."""
    parts = {"version": str(found.version)}
    if found.moment.effective_as_of is not None:
        parts["effective_as_of"] = codec.format_time(found.moment.effective_as_of)
    return urlencode(parts | {"zone": zone.key})


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
