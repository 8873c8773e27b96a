"""Where the projector gets its events: from Kafka, or straight from the log. One interface.

A feed hands out events of each account in order, and says up to which log position each of its
partitions is complete once those events are applied.
"""

import logging
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec
from django.conf import settings

from ledger import store
from ledger.api.serializers import is_uuid
from ledger.codec import RecordedEvent
from projections import redis_store, wire
from projections.kafka import BrokerUnavailableError, Reader, find_topic
from projections.models import Parked, Relay
from projections.relay import topic_from_settings

log = logging.getLogger(__name__)

BATCH_MAX = 5000
WAIT_SECONDS = 0.01
"""How long a feed gathers events: half of it is lag, and what comes in a batch shares its cost."""
IDENTITY_SECONDS = 2.0
"""Time between two looks whether the topic is still the same one."""
BARRIER_SECONDS = 0.05
"""Time between two barriers (`KafkaFeed`)."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Events, and what is complete when they are applied. `offsets` belong to the feed."""

    events: list[RecordedEvent]
    progress: dict[str, int]
    offsets: dict[str, int]


class Feed(Protocol):
    """What the projector needs of a source of events."""

    def poll(self) -> Batch:
        """The next batch, empty after a short wait when there is nothing."""

    def close(self) -> None:
        """Give up connections."""


def partitions() -> list[str]:
    """The names of the configured feed's partitions."""
    if settings.LEDGER_BUS == "kafka":
        return [str(number) for number in range(settings.LEDGER_TOPIC_PARTITIONS)]
    return ["log"]


class LogFeed:
    """The log itself, by position."""

    def __init__(self, after: int) -> None:
        self.position = after

    def poll(self) -> Batch:
        """The next page of the log."""
        events = store.read_log(after=self.position, limit=BATCH_MAX)
        if not events:
            time.sleep(WAIT_SECONDS)
            return Batch(events=[], progress={}, offsets={})
        self.position = events[-1].position
        return Batch(events=events, progress={"log": self.position}, offsets={"log": self.position})

    def close(self) -> None:
        """Nothing to give up."""


class KafkaFeed:
    """The topic, from offsets that are kept beside the projections.

    An idle partition says nothing of its own about being complete. So a barrier is taken from time
    to time: the relay's position, then the partitions' ends. What lies before the ends includes
    everything up to that position; once all of it was read, every partition is complete up to it.
    """

    def __init__(self, progress: Mapping[str, int], offsets: Mapping[str, int]) -> None:
        self.topic = topic_from_settings()
        self.identity = find_topic(self.topic).identity
        if redis_store.topic_of_offsets() != self.identity:
            log.info(
                "topic %s is another one than before: reading it from its start", self.topic.name
            )
            offsets = {}
            redis_store.keep_topic_of_offsets(self.identity)
        self.done = dict(progress)
        self.next = {number: offsets.get(str(number), 0) for number in range(self.topic.partitions)}
        self.reader = Reader(self.topic, self.next)
        self.complete = 0
        self.barrier: tuple[int, dict[int, int], list[str]] | None = None
        self.barrier_due = time.monotonic()
        self.identity_due = time.monotonic() + IDENTITY_SECONDS

    def poll(self) -> Batch:
        """The next records of all partitions."""
        self._take_barrier()
        records = self.reader.read(BATCH_MAX, WAIT_SECONDS)
        progress: dict[str, int] = {}
        events: list[RecordedEvent] = []
        for record in records:
            name = str(record.partition)
            self.next[record.partition] = record.offset + 1
            try:
                event = wire.from_message(record.value)
            except wire.StrangeRecordError as error:
                log.error("partition %s, offset %d: %s", name, record.offset, error)  # noqa: TRY400
                events += _instead_of(record.key)
                progress[name] = self.done.get(name, 0)
                continue
            events.append(event)
            # What was parked comes late: progress goes on from where it is.
            progress[name] = self.done[name] = max(self.done.get(name, 0), event.position)
        if self.barrier is not None and self._barrier_passed():
            position, _, parked = self.barrier
            self.complete, self.barrier = position, None
            for account_id in parked:  # the relay cannot send their events: read here instead
                events += store.newest_of(account_id)
            for name in map(str, self.next):
                progress[name] = self.done[name] = max(position, self.done.get(name, 0))
        offsets = {str(number): offset for number, offset in self.next.items()} if progress else {}
        return Batch(events=events, progress=progress, offsets=offsets)

    def _take_barrier(self) -> None:
        now = time.monotonic()
        if self.barrier is not None or now < self.barrier_due:
            return
        self.barrier_due = now + BARRIER_SECONDS
        if now >= self.identity_due:
            self.identity_due = now + IDENTITY_SECONDS
            if find_topic(self.topic).identity != self.identity:
                raise BrokerUnavailableError(f"topic {self.topic.name} was made anew")
        row = Relay.objects.filter(topic=self.topic.name).first()
        if row is not None and row.position > self.complete:
            parked = Parked.objects.filter(topic=self.topic.name).values_list(
                "account_id", flat=True
            )
            ends = self.reader.ends()
            if any(ends[number] < offset for number, offset in self.next.items()):
                redis_store.keep_topic_of_offsets("")  # to be read from its start
                raise BrokerUnavailableError(f"topic {self.topic.name} is shorter than it was")
            self.barrier = (row.position, ends, list(map(str, parked)))

    def _barrier_passed(self) -> bool:
        return self.barrier is not None and all(
            self.next[number] >= end for number, end in self.barrier[1].items()
        )

    def close(self) -> None:
        """Leave the broker."""
        self.reader.close()


def _instead_of(key: bytes) -> list[RecordedEvent]:
    """For a record that cannot be read: the newest event of the account that its key names, if any."""
    account_id = key.decode("ascii", "replace").lower()
    return store.newest_of(account_id) if is_uuid(account_id) else []


def open_feed(progress: Mapping[str, int], offsets: Mapping[str, int], *, floor: int) -> Feed:
    """The configured feed, going on where the projections are.

    `floor` is the position that the oldest generation's build covers: with no progress noted, the
    log is read from there. Kafka is read from its beginning then; what is known is skipped.
    """
    if settings.LEDGER_BUS == "kafka":
        return KafkaFeed(progress, offsets)
    return LogFeed(progress.get("log", floor))
