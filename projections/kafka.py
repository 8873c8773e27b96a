"""The only file that knows the Kafka client: a publisher for the relay, a reader for the projector.

The publisher hands nothing over as sent before the broker has acknowledged it.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not re-exported in its stubs
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from ledger.codec import RecordedEvent
from projections import wire

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_MS = 30_000
OVERHEAD_BYTES = 300
"""What a batch of one record adds to key and value: its frames and headers, generously."""
Headers = list[tuple[str, str | bytes | None]]
ENVELOPE_MAX_BYTES = 16_384
"""More than everything around an event's payload takes."""
THROUGH = "relayed-through"
"""Header of a record that comes late: its partition had everything else up to this position."""
TIMEOUT_SECONDS = 10.0
_QUIET = {"log_level": 3, "socket.keepalive.enable": True, "reconnect.backoff.max.ms": 1000}


class BrokerUnavailableError(Exception):
    """Kafka did not answer or did not acknowledge; nothing is lost, try again later."""


class TopicMismatchError(Exception):
    """The topic is not as the ledger needs it; the message says what to do."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """Where events go."""

    servers: str
    name: str
    partitions: int
    replication: int = 1


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it is: which one of that name, and the largest batch of records that it takes."""

    identity: str
    batch_max: int


def ensure_topic(topic: Topic) -> Found:
    """Create the topic if it is missing; otherwise as `find_topic`.

    For those who fill it from its beginning: what another creates, they would take for theirs.
    """
    return find_topic(topic, create=True)


def find_topic(topic: Topic, *, create: bool = False) -> Found:
    """The topic, unless it is one that would lose or reorder events.

    Raises:
        TopicMismatchError: it is compacted, or has another number of partitions.
        BrokerUnavailableError: no answer, or it is not there.
    """
    admin = AdminClient({"bootstrap.servers": topic.servers, **_QUIET})
    try:
        known = admin.list_topics(timeout=TIMEOUT_SECONDS).topics.get(topic.name)
        if known is None and not create:
            raise BrokerUnavailableError(f"topic {topic.name} is not there yet")
        if known is None:
            new = NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication,
                # Never compact: only the newest event of each account would survive.
                config={"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
            )
            try:
                admin.create_topics([new])[topic.name].result(TIMEOUT_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            _wait_for_leaders(topic)
        elif len(known.partitions) != topic.partitions:
            raise TopicMismatchError(
                f"topic {topic.name} has {len(known.partitions)} partitions, not "
                f"{topic.partitions}: the count is fixed, since it decides where an account goes"
            )
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name)
        config = admin.describe_configs([resource])[resource].result(TIMEOUT_SECONDS)
        if "compact" in config["cleanup.policy"].value:
            raise TopicMismatchError(
                f"topic {topic.name} is compacted and would lose history: set cleanup.policy=delete"
            )
        described = admin.describe_topics(TopicCollection([topic.name]))
        return Found(
            identity=str(described[topic.name].result(TIMEOUT_SECONDS).topic_id),
            batch_max=int(config["max.message.bytes"].value),
        )
    except KafkaException as error:
        raise BrokerUnavailableError(str(error.args[0])) from error


def count_records(topic: Topic) -> int:
    """How many records the topic holds.

    Raises:
        BrokerUnavailableError: no answer.
    """
    admin = AdminClient({"bootstrap.servers": topic.servers, **_QUIET})
    first = _offsets(topic, admin, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # untyped there
    return sum(end_offsets(topic, admin).values()) - sum(first.values())


def recreate_topic(topic: Topic) -> Found:
    """Delete the topic with all that is in it, and create it again.

    Raises:
        BrokerUnavailableError: no answer.
    """
    admin = AdminClient({"bootstrap.servers": topic.servers, **_QUIET})
    try:
        admin.delete_topics([topic.name])[topic.name].result(TIMEOUT_SECONDS)
    except KafkaException as error:
        raise BrokerUnavailableError(str(error.args[0])) from error
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while topic.name in admin.list_topics(timeout=TIMEOUT_SECONDS).topics:
        if time.monotonic() > deadline:
            raise BrokerUnavailableError(f"topic {topic.name} is still being deleted")
        time.sleep(0.05)
    return ensure_topic(topic)


def end_offsets(topic: Topic, admin: AdminClient) -> dict[int, int]:
    """The offset after the last record of each partition.

    Raises:
        BrokerUnavailableError: no answer.
    """
    return _offsets(topic, admin, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # untyped there


def _offsets(topic: Topic, admin: AdminClient, spec: OffsetSpec) -> dict[int, int]:
    asked = {TopicPartition(topic.name, number): spec for number in range(topic.partitions)}
    try:
        return {
            partition.partition: future.result(TIMEOUT_SECONDS).offset
            for partition, future in admin.list_offsets(asked).items()
        }
    except KafkaException as error:
        raise BrokerUnavailableError(str(error.args[0])) from error


def _wait_for_leaders(topic: Topic) -> None:
    """A new topic answers "not leader" for a moment; a client that heard it keeps to it."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            end_offsets(topic, AdminClient({"bootstrap.servers": topic.servers, **_QUIET}))
        except BrokerUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The last event in a partition, and up to which position the partition has everything."""

    event: RecordedEvent
    position: int


def last_events(topic: Topic) -> dict[int, Published]:
    """The last event in each partition; absent where there is none. What is not ours is passed over.

    Raises:
        BrokerUnavailableError: no answer, or not every last record could be read.
    """
    ends = end_offsets(topic, AdminClient({"bootstrap.servers": topic.servers, **_QUIET}))
    waiting = {number: end - 1 for number, end in ends.items() if end > 0}
    consumer = Consumer(
        {
            "bootstrap.servers": topic.servers,
            "group.id": "ledger.relay.last",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            **_QUIET,
        }
    )
    found: dict[int, Published] = {}
    try:
        while waiting:
            consumer.assign([TopicPartition(topic.name, *at) for at in waiting.items()])
            for number, record in _one_of_each(consumer, set(waiting)).items():
                before = waiting.pop(number) - 1
                try:
                    event = wire.from_message(record.value)
                except wire.StrangeRecordError as error:
                    log.error("partition %d, offset %d: %s", number, before + 1, error)  # noqa: TRY400
                    if before >= 0:
                        waiting[number] = before
                else:
                    through = max(event.position, record.through)
                    found[number] = Published(event=event, position=through)
    except KafkaException as error:
        raise BrokerUnavailableError(str(error.args[0])) from error
    finally:
        consumer.close()
    return found


def _one_of_each(consumer: Consumer, partitions: set[int]) -> dict[int, "Record"]:
    found: dict[int, Record] = {}
    while found.keys() != partitions:
        messages = consumer.consume(num_messages=len(partitions), timeout=TIMEOUT_SECONDS)
        if not messages:
            raise BrokerUnavailableError("the last records of the topic could not be read")
        for message in messages:
            record = _record(message)
            found.setdefault(record.partition, record)
    return found


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it came. `through`: the position that its partition was complete up to, if late."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    through: int


def _record(message: Message) -> Record:
    """The record, or the error that came in its place."""
    if message.error() is not None:
        raise BrokerUnavailableError(str(message.error()))
    headers = dict(message.headers() or [])
    through = headers.get(THROUGH, b"")
    return Record(
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        key=bytes(message.key() or b""),
        value=bytes(message.value() or b""),
        through=int(through) if isinstance(through, bytes) and through.isdigit() else 0,
    )


class Publisher:
    """Sends events and waits until the broker has them."""

    def __init__(self, topic: Topic, *, batch_max: int = 1_000_000) -> None:
        self.topic = topic
        self.batch_max = batch_max
        self._producer = Producer(
            {
                "bootstrap.servers": topic.servers,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "zstd",
                "linger.ms": 2,
                # So that no batch is too large for the topic: what it refuses is one event's fault.
                "batch.size": min(1_000_000, batch_max),
                "message.max.bytes": max(1_000_000, batch_max),
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                **_QUIET,
            }
        )
        self._failures: list[KafkaError] = []

    def problem_with(self, recorded: RecordedEvent) -> str:
        """Why the topic would refuse this event, now and for ever; empty if it would not."""
        if 4 * len(recorded.payload) + ENVELOPE_MAX_BYTES <= self.batch_max:
            return ""
        size = len(wire.to_message(recorded)) + OVERHEAD_BYTES
        if size <= self.batch_max:
            return ""
        return f"event {recorded.position} takes {size} bytes: the topic takes {self.batch_max}"

    def publish(self, events: Sequence[RecordedEvent], *, through: int = 0) -> None:
        """Return when every event is acknowledged.

        Events that come late say `through` which position their partition has everything else.

        Raises:
            BrokerUnavailableError: at least one is not; some may be. The publisher is spent.
        """
        headers: Headers = [("content-type", wire.CONTENT_TYPE.encode())]
        if through:
            headers.append((THROUGH, str(through).encode()))
        for recorded in events:
            self._produce(recorded, headers)
        self._flush()

    def publish_text(self, *, key: str, value: str) -> None:
        """As `publish`, for a text on the topic's only partition."""
        try:
            self._producer.produce(
                self.topic.name, key=key, value=value, partition=0, on_delivery=self._delivered
            )
        except KafkaException as error:
            raise BrokerUnavailableError(str(error.args[0])) from error
        self._flush()

    def _flush(self) -> None:
        left = self._producer.flush(DELIVERY_TIMEOUT_MS / 1000 + 5)
        if left or self._failures:
            reason = str(self._failures[0]) if self._failures else f"{left} not acknowledged"
            self._producer.purge()
            raise BrokerUnavailableError(reason)

    def _produce(self, recorded: RecordedEvent, headers: Headers) -> None:
        while True:
            try:
                self._producer.produce(
                    self.topic.name,
                    key=recorded.account_id.encode("ascii"),
                    value=wire.to_message(recorded),
                    partition=wire.partition_of(recorded.account_id, self.topic.partitions),
                    headers=headers,
                    on_delivery=self._delivered,
                )
            except BufferError:  # the local queue is full: let deliveries drain it
                self._producer.poll(0.1)
            except KafkaException as error:
                raise BrokerUnavailableError(str(error.args[0])) from error
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures.append(error)


class Reader:
    """Reads the topic from given offsets. Its offsets are kept by who applies the events."""

    def __init__(self, topic: Topic, offsets: Mapping[int, int]) -> None:
        self.topic = topic
        self._admin = AdminClient({"bootstrap.servers": topic.servers, **_QUIET})
        self._consumer = Consumer(
            {
                "bootstrap.servers": topic.servers,
                "group.id": "ledger.projector",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 250,
                "max.poll.interval.ms": 600_000,
                **_QUIET,
            }
        )
        self.seek(offsets)

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Go on at `offsets`; partitions that are not named start at their beginning."""
        self._consumer.assign(
            [
                TopicPartition(self.topic.name, number, offsets.get(number, OFFSET_BEGINNING))
                for number in range(self.topic.partitions)
            ]
        )

    def read(self, limit: int, timeout: float) -> list[Record]:
        """Up to `limit` records.

        Raises:
            BrokerUnavailableError: the broker says no.
        """
        try:
            messages = self._consumer.consume(num_messages=limit, timeout=timeout)
        except KafkaException as error:
            raise BrokerUnavailableError(str(error.args[0])) from error
        return [_record(message) for message in messages]

    def ends(self) -> dict[int, int]:
        """See `end_offsets`."""
        return end_offsets(self.topic, self._admin)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
