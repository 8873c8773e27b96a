"""Pure: a recorded event as a Kafka message and back.

Value: CloudEvents 1.0 in structured JSON. `id` is the position, `subject` the account id. Key:
the account id in lower case, so that Kafka keeps the order of each account. The partition follows
from the key by murmur2, as in Java's default partitioner; it is computed here and never left to
a client library's default.
"""

from functools import lru_cache
from typing import Any

import msgspec

from ledger import codec
from ledger.codec import Metadata, RecordedEvent

SOURCE = "/ledger"
CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"


class _Envelope(msgspec.Struct):
    id: str
    type: str
    subject: str
    time: Any
    version: int
    position: int
    schemaversion: int
    effectiveat: Any
    leafhash: str
    commandid: str
    actor: str
    correlationid: str
    causationid: str
    channel: str
    data: msgspec.Raw


class StrangeRecordError(Exception):
    """A record of the topic is not one that the relay wrote."""


_decoder = msgspec.json.Decoder(_Envelope)


def to_message(recorded: RecordedEvent) -> bytes:
    """The value of the message for `recorded`."""
    metadata = recorded.metadata
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": str(recorded.position),
            "source": SOURCE,
            "type": f"ledger.{recorded.type}.v{recorded.schema_version}",
            "subject": recorded.account_id,
            "time": codec.format_time(recorded.recorded_at),
            "datacontenttype": "application/json",
            "version": recorded.version,
            "position": recorded.position,
            "schemaversion": recorded.schema_version,
            "effectiveat": codec.format_time(recorded.effective_at),
            "leafhash": recorded.leaf_hash.hex(),
            "commandid": metadata.command_id,
            "actor": metadata.actor,
            "correlationid": metadata.correlation_id,
            "causationid": metadata.causation_id,
            "channel": metadata.channel,
            "data": msgspec.Raw(recorded.payload.encode()),
        }
    )


def from_message(value: bytes) -> RecordedEvent:
    """The event of a message.

    Raises:
        StrangeRecordError: it is not one of ours.
    """
    try:
        return _from_envelope(_decoder.decode(value))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        raise StrangeRecordError(f"not an event of the ledger: {error}") from error


def _from_envelope(envelope: _Envelope) -> RecordedEvent:
    event_type, _, _ = envelope.type.removeprefix("ledger.").rpartition(".v")
    return RecordedEvent(
        position=envelope.position,
        account_id=envelope.subject,
        version=envelope.version,
        type=event_type,
        schema_version=envelope.schemaversion,
        payload=bytes(envelope.data).decode(),
        metadata=Metadata(
            command_id=envelope.commandid,
            actor=envelope.actor,
            correlation_id=envelope.correlationid,
            causation_id=envelope.causationid,
            channel=envelope.channel,
        ),
        effective_at=codec.parse_stored_time(envelope.effectiveat),
        recorded_at=codec.parse_stored_time(envelope.time),
        leaf_hash=bytes.fromhex(envelope.leafhash),
    )


def murmur2(data: bytes) -> int:
    """Kafka's own 32-bit murmur2 (org.apache.kafka.common.utils.Utils)."""
    length = len(data)
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ (word >> 24)) * multiplier & mask
        value = (value * multiplier & mask) ^ word
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & mask
    value = (value ^ (value >> 13)) * multiplier & mask
    return value ^ (value >> 15)


@lru_cache(maxsize=100_000)
def partition_of(account_id: str, partitions: int) -> int:
    """The partition of an account's events."""
    return (murmur2(account_id.encode("ascii")) & 0x7FFFFFFF) % partitions
