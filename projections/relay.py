"""Copy the log to Kafka, in order of position, exactly as often as the broker needs.

Single-flight by a PostgreSQL advisory lock on the session that also reads the log. The topic is its
own checkpoint: on start the last record of every partition tells what is already there, so a kill
between produce and bookkeeping leaves neither a gap nor a duplicate. Never skips an event: one that
the topic can never take parks its account, from that event on, until somebody has it tried again.
"""

import logging
import time
from collections.abc import Iterable, Iterator

import msgspec
from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now

from ledger import store
from ledger.codec import RecordedEvent
from ledger.trace import trace
from projections import kafka, redis_store, wire
from projections.kafka import BrokerUnavailableError, Publisher, Topic
from projections.models import Parked, Relay

log = logging.getLogger(__name__)

RETRY_LOOK_SECONDS = 0.5
STEP_SECONDS = 0.02
"""Time between two looks at the log, unless a full page shows that it is behind: a step costs the
same for one event as for twenty."""
AWAKE_SECONDS = 3
LINGER_SECONDS = 1.0
"""An idle relay stays this long before it gives its worker back: a wake-up is a round trip saved."""


class LogBehindTopicError(Exception):
    """The topic holds events that the log does not: the database was restored to the past."""


def topic_from_settings() -> Topic:
    """The topic as configured."""
    return Topic(
        servers=settings.KAFKA_BOOTSTRAP_SERVERS,
        name=settings.LEDGER_TOPIC,
        partitions=settings.LEDGER_TOPIC_PARTITIONS,
        replication=settings.LEDGER_TOPIC_REPLICATION,
    )


def _check_same_log(topic: Topic, published: Iterable[RecordedEvent]) -> None:
    tips = {event.position: event.leaf_hash for event in published}
    problem = store.unlike_log(tips)
    if problem:
        raise LogBehindTopicError(
            f"topic {topic.name} {problem}: the database was restored to an earlier state; "
            "see docs/operations.md, restore"
        )


def problem_with_topic() -> str:
    """Why the topic is not of this log; empty if it is, or is away."""
    if settings.LEDGER_BUS != "kafka":
        return ""
    topic = topic_from_settings()
    try:
        kafka.find_topic(topic)
        _check_same_log(topic, [found.event for found in kafka.last_events(topic).values()])
    except BrokerUnavailableError as error:
        log.warning("Kafka is away: %s", error)
    except (LogBehindTopicError, kafka.TopicMismatchError) as error:
        return str(error)
    return ""


class _Copy:
    """One relay's view of what the topic holds."""

    def __init__(self, topic: Topic) -> None:
        found = kafka.ensure_topic(topic)
        self.topic = topic
        row = Relay.objects.get_or_create(topic=topic.name)[0]
        is_other = row.topic_id not in ("", found.identity)
        if is_other and 0 < kafka.count_records(topic) < row.position:
            # Somebody deleted it, or it was lost with a disk, and a relay that did not notice went
            # on into its successor: that one lacks what came before.
            log.error("topic %s was lost and made anew: filling it from the log", topic.name)
            found = kafka.recreate_topic(topic)
        if row.topic_id != found.identity:
            Relay.objects.filter(topic=topic.name).update(topic_id=found.identity)
        last = kafka.last_events(topic)
        _check_same_log(topic, [item.event for item in last.values()])
        self.published = {partition: item.position for partition, item in last.items()}
        self.position = row.position
        ahead = max(self.published.values(), default=0)
        if ahead < self.position:
            log.warning("the topic ends at %d, not %d: copying again", ahead, self.position)
            self.position = 0  # what is there is skipped, partition by partition
        self.publisher = Publisher(topic, batch_max=found.batch_max)
        self.parked = {str(row.account_id) for row in self._rows()}
        self.retry_due = 0.0

    def _rows(self) -> QuerySet[Parked]:
        return Parked.objects.filter(topic=self.topic.name)

    def step(self) -> int:
        """Copy the next page; return how many events were read."""
        if time.monotonic() >= self.retry_due:
            self.retry_due = time.monotonic() + RETRY_LOOK_SECONDS
            for row in self._rows().filter(is_retry_wanted=True):
                self._retry(row)
        page = store.read_log(after=self.position)
        if not page:
            return 0
        events = [event for event in page if not self._is_there(event)]
        self._park_what_would_be_refused(events)
        sendable = [event for event in events if event.account_id not in self.parked]
        self.publisher.publish(sendable)
        trace("relayed", sendable)
        self.position = page[-1].position
        self.note()
        return len(page)

    def _park_what_would_be_refused(self, events: Iterable[RecordedEvent]) -> None:
        """Before anything is sent, so that a kill in between cannot hide an event among those sent.

        Nothing of a page is sent of an account whose event is refused: its order stays whole.
        """
        first: dict[str, RecordedEvent] = {}
        for event in events:
            if event.account_id in self.parked:
                continue
            first.setdefault(event.account_id, event)
            if problem := self.publisher.problem_with(event):
                log.error(
                    "account %s is parked: %s",
                    event.account_id,
                    problem,
                    extra={"correlation_id": event.metadata.correlation_id},
                )
                Parked.objects.create(
                    topic=self.topic.name,
                    account_id=event.account_id,
                    position=first[event.account_id].position,
                    reason=problem,
                )
                self.parked.add(event.account_id)

    def _retry(self, row: Parked) -> None:
        """Send what an account waits for, as far as the relay has come; or say why not, again.

        A kill before the row is gone sends it twice, which every reader must bear anyway.
        """
        account_id, after = str(row.account_id), 0
        while page := store.read_stream(account_id, after=after):
            after = page[-1].version
            due = [event for event in page if row.position <= event.position <= self.position]
            for event in due:
                if problem := self.publisher.problem_with(event):
                    self._rows().filter(account_id=account_id).update(
                        position=event.position, reason=problem, is_retry_wanted=False
                    )
                    self.publisher.publish(due[: due.index(event)], through=self.position)
                    return
            self.publisher.publish(due, through=self.position)
        self._rows().filter(account_id=account_id).delete()
        self.parked.discard(account_id)

    def note(self) -> None:
        """Keep the position for others to see; the topic itself is the checkpoint."""
        Relay.objects.filter(topic=self.topic.name).update(
            position=self.position, error="", updated_at=Now()
        )

    def _is_there(self, event: RecordedEvent) -> bool:
        partition = wire.partition_of(event.account_id, self.topic.partitions)
        return event.position <= self.published.get(partition, 0)


def _steps(copy: _Copy, deadline: float, linger_seconds: float) -> Iterator[int]:
    """Step until nothing came for a while, or the deadline; yields the events of each step."""
    idle_since = said = time.monotonic()
    redis_store.say_relay_awake(AWAKE_SECONDS)
    while (now := time.monotonic()) < deadline:
        if now - said > AWAKE_SECONDS / 3:
            redis_store.say_relay_awake(AWAKE_SECONDS)
            said = now
        count = copy.step()
        yield count
        if count:
            idle_since = now
        elif now - idle_since >= linger_seconds:
            return
        if count < store.PAGE:
            time.sleep(max(0.0, now + STEP_SECONDS - time.monotonic()))


def run(*, budget_seconds: float, linger_seconds: float = LINGER_SECONDS) -> int:
    """Copy until nothing is left for a while, or the budget is spent.

    Returns how many events were read; 0 at once when another relay is at work. Kafka being away is
    noted, not raised: the next run tries again.

    Raises:
        LogBehindTopicError, TopicMismatchError: a person must decide.
    """
    if settings.LEDGER_BUS != "kafka":
        return 0
    deadline = time.monotonic() + budget_seconds
    copied, position = 0, -1
    while position < store.last_position() and time.monotonic() < deadline:
        with store.single_flight(store.Lock.RELAY) as got:
            if not got:
                return copied
            count, position = _copy_until(deadline, linger_seconds)
            copied += count
        # Released: a wake-up that met the lock in the last moment did nothing, so look again.
    return copied


def _copy_until(deadline: float, linger_seconds: float) -> tuple[int, int]:
    """Copy under the lock; returns how many events were read and the position that was reached.

    When Kafka is away the position is as high as can be: there is no use in trying on.
    """
    topic = topic_from_settings()
    copied = 0
    try:
        copy = _Copy(topic)
        for count in _steps(copy, deadline, linger_seconds):
            copied += count
    except BrokerUnavailableError as error:
        log.warning("Kafka is away, %d events copied before: %s", copied, error)
        Relay.objects.update_or_create(topic=topic.name, defaults={"error": str(error)})
        return copied, 2**63
    except (LogBehindTopicError, kafka.TopicMismatchError) as error:
        Relay.objects.update_or_create(topic=topic.name, defaults={"error": str(error)})
        raise
    finally:
        redis_store.say_relay_awake(0)
    return copied, copy.position


def publish_seal(*, log_name: str, size: int, note: str) -> None:
    """Put the signed tree head of the first `size` entries of a log on the topic of seals."""
    if settings.LEDGER_BUS != "kafka" or redis_store.seal_published(log_name) >= size:
        return
    topic = msgspec.structs.replace(
        topic_from_settings(), name=settings.LEDGER_SEALS_TOPIC, partitions=1
    )
    try:
        kafka.ensure_topic(topic)
        kafka.Publisher(topic).publish_text(key=f"{log_name}/{size}", value=note)
    except BrokerUnavailableError as error:
        log.warning("Kafka is away, the seal of %d %s waits: %s", size, log_name, error)
        return
    redis_store.say_seal_published(log_name, size)
