"""Where the projector gets its events: from Kafka, or straight from the log. One interface.

A feed hands out events of each account in order, and says up to which log position each of its
partitions is complete once those events are applied.
"""

import time
from collections.abc import Mapping
from typing import Protocol

import msgspec
from django.conf import settings

from ledger import store
from ledger.codec import RecordedEvent
from projections import wire
from projections.kafka import Reader, ensure_topic
from projections.models import Relay
from projections.relay import topic_from_settings

BATCH_MAX = 5000
WAIT_SECONDS = 0.01
"""How long a feed gathers events: half of it is lag, and what comes in a batch shares its cost."""
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

    def __init__(self, offsets: Mapping[str, int]) -> None:
        self.topic = topic_from_settings()
        ensure_topic(self.topic)
        self.next = {number: offsets.get(str(number), 0) for number in range(self.topic.partitions)}
        self.reader = Reader(self.topic, self.next)
        self.complete = 0
        self.barrier: tuple[int, dict[int, int]] | None = None
        self.barrier_due = time.monotonic()

    def poll(self) -> Batch:
        """The next records of all partitions."""
        self._take_barrier()
        records = self.reader.read(BATCH_MAX, WAIT_SECONDS)
        progress: dict[str, int] = {}
        events: list[RecordedEvent] = []
        for partition, offset, value in records:
            event = wire.from_message(value)
            events.append(event)
            self.next[partition] = offset + 1
            progress[str(partition)] = event.position
        if self._barrier_passed():
            progress |= {
                name: max(self.complete, progress.get(name, 0)) for name in map(str, self.next)
            }
        offsets = {str(number): offset for number, offset in self.next.items()} if progress else {}
        return Batch(events=events, progress=progress, offsets=offsets)

    def _take_barrier(self) -> None:
        if self.barrier is not None or time.monotonic() < self.barrier_due:
            return
        self.barrier_due = time.monotonic() + BARRIER_SECONDS
        row = Relay.objects.filter(topic=self.topic.name).first()
        if row is not None and row.position > self.complete:
            self.barrier = (row.position, self.reader.ends())

    def _barrier_passed(self) -> bool:
        if self.barrier is None:
            return False
        position, ends = self.barrier
        if any(self.next[number] < end for number, end in ends.items()):
            return False
        self.complete = position
        self.barrier = None
        return True

    def close(self) -> None:
        """Leave the broker."""
        self.reader.close()


def open_feed(progress: Mapping[str, int], offsets: Mapping[str, int], *, floor: int) -> Feed:
    """The configured feed, going on where the projections are.

    `floor` is the position that the oldest generation's build covers: with no progress noted, the
    log is read from there. Kafka is read from its beginning then; what is known is skipped.
    """
    if settings.LEDGER_BUS == "kafka":
        return KafkaFeed(offsets)
    return LogFeed(progress.get("log", floor))
