"""Events and states to bytes and back, and the hash of an event.

Canonical form: RFC 8785 JSON. Payloads hold only strings, integers below 2**53, booleans, objects
and nulls, all keys are ASCII, so sorted msgspec output is that form (a test compares it with an independent
RFC 8785 encoder).

leaf_hash = SHA-256(0x00 | position | recorded_at in µs | digest), both numbers as 8 bytes big
endian; digest = SHA-256 of the canonical JSON of account_id, version, type, schema_version,
payload, metadata, effective_at (DESIGN section 4). The database computes the same leaf. Records of
commands and of reads have leaves of the same make.
"""

import ast
import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from ledger import upcasters
from ledger.domain import events, state
from ledger.domain.events import EVENT_TYPES, Event
from ledger.domain.state import Account
from ledger.errors import StateIncompleteError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMAS = Path(__file__).parent / "schemas"
"""One JSON Schema per event type and version that was ever released, e.g. ``HoldPlaced.v1.json``."""

_canonical = msgspec.json.Encoder(order="sorted")
_plain = msgspec.json.Encoder()
_account_decoder = msgspec.json.Decoder(Account)


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Who and why: stored with every event, never read by a business rule."""

    command_id: str
    actor: str
    correlation_id: str
    causation_id: str
    channel: str


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the log holds it. `payload` is the stored JSON text."""

    position: int
    account_id: str
    version: int
    type: str
    schema_version: int
    payload: str
    metadata: Metadata
    effective_at: datetime
    recorded_at: datetime
    leaf_hash: bytes

    @property
    def event(self) -> Event:
        """The typed event, through the upcasters.

        Raises:
            StateIncompleteError: this code does not know the type or version.
        """
        return decode_event(self.type, self.schema_version, self.payload)


def parse_stored_time(text: str) -> datetime:
    """The datetime of `format_time`'s text."""
    return datetime.fromisoformat(text)


def canonical(value: Any) -> bytes:
    """The RFC 8785 form of JSON-like values, structs included."""
    return _canonical.encode(value)


def encode(value: Any) -> str:
    """Plain JSON text."""
    return _plain.encode(value).decode()


def decode_json(text: str | bytes) -> Any:
    """JSON text to plain values."""
    return msgspec.json.decode(text)


def to_micros(moment: datetime) -> int:
    """Whole microseconds since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of `micros`."""
    return EPOCH + timedelta(microseconds=micros)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with always six decimals: one spelling for one instant."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def content(
    *,
    account_id: str,
    version: int,
    event_type: str,
    schema_version: int,
    payload: Any,
    metadata: Any,
    effective_at: str,
) -> bytes:
    """The canonical JSON of what an event says, known before it has a position.

    `effective_at` as `format_time` spells it.
    """
    return canonical(
        {
            "account_id": account_id,
            "version": version,
            "type": event_type,
            "schema_version": schema_version,
            "payload": payload,
            "metadata": metadata,
            "effective_at": effective_at,
        }
    )


def digest(event_content: bytes) -> bytes:
    """SHA-256 of an event's `content`."""
    return hashlib.sha256(event_content).digest()


def leaf_hash(position: int, recorded_at: datetime, event_digest: bytes) -> bytes:
    """The leaf of the audit tree for an event; 32 bytes."""
    return hashlib.sha256(
        b"\x00"
        + position.to_bytes(8, "big")
        + to_micros(recorded_at).to_bytes(8, "big", signed=True)
        + event_digest
    ).digest()


def command_leaf(number: int, first: int | None, last: int | None, record_digest: bytes) -> bytes:
    """The leaf of a command's record: its number, the positions of its events (0 for none), its digest."""
    numbers = b"".join(item.to_bytes(8, "big") for item in (number, first or 0, last or 0))
    return hashlib.sha256(b"\x00" + numbers + record_digest).digest()


def content_of(recorded: RecordedEvent) -> bytes:
    """The `content` of a stored event."""
    return content(
        account_id=recorded.account_id,
        version=recorded.version,
        event_type=recorded.type,
        schema_version=recorded.schema_version,
        payload=msgspec.json.decode(recorded.payload),
        metadata=recorded.metadata,
        effective_at=format_time(recorded.effective_at),
    )


def leaf_hash_of(recorded: RecordedEvent) -> bytes:
    """The leaf hash that a stored event must have."""
    return leaf_hash(recorded.position, recorded.recorded_at, digest(content_of(recorded)))


@cache
def _decoder(event_type: str) -> msgspec.json.Decoder[Event]:
    return msgspec.json.Decoder(EVENT_TYPES[event_type])


def decode_event(event_type: str, schema_version: int, payload: str | bytes) -> Event:
    """The typed event of a stored payload, upcast to the newest schema version.

    Raises:
        StateIncompleteError: the type or version is newer than this code, or the payload does not
            fit its schema; the detail says which.
    """
    cls = EVENT_TYPES.get(event_type)
    if cls is None or schema_version > cls.schema_version:
        raise StateIncompleteError(
            f"{event_type} version {schema_version} is newer than this software: update it"
        )
    try:
        if schema_version == cls.schema_version:
            return _decoder(event_type).decode(payload)
        newest = upcasters.upcast(event_type, schema_version, msgspec.json.decode(payload))[-1]
        return msgspec.convert(newest, cls)
    except msgspec.MsgspecError as error:
        raise StateIncompleteError(
            f"{event_type} version {schema_version} does not fit its schema: {error}"
        ) from error


def decode_account(text: str | bytes) -> Account:
    """The account of a stored state.

    Raises:
        msgspec.MsgspecError: it is not one; the caller falls back to the events.
    """
    return _account_decoder.decode(text)


def logic_of(modules: tuple[ModuleType, ...]) -> str:
    """A digest of the modules' code without comments and docstrings."""
    hasher = hashlib.sha256()
    for module in modules:
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [  # type: ignore[attr-defined]  # every node with a list body has it
                    item
                    for item in body
                    if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
                ]
        hasher.update(ast.dump(tree).encode())
    return hasher.hexdigest()[:16]


STATE_SCHEMA = logic_of((events, state, upcasters))
"""Names the logic that makes states; heads and snapshots of another one are not trusted."""
