"""Keep Redis up to date with the log: read the feed, fold, write guarded by version.

An event at or below the stored version is skipped; one beyond the next is a hole, and the account is
read from the event store. A batch is applied before its progress is noted, so a kill at any point
repeats work and loses none. An account whose event is newer than this code, or cannot be folded, is
parked with a reason; the others go on.
"""

import logging
import time

from django.db import Error as DatabaseError
from django.db import connection

from ledger.trace import trace
from projections import feeds, rebuild, redis_store
from projections.apply import apply_events, retry_parked
from projections.kafka import BrokerUnavailableError

log = logging.getLogger(__name__)

GENERATIONS_MISSING_PAUSE_SECONDS = 0.2
OTHER_LOG_PAUSE_SECONDS = 5
LOOK_SECONDS = 0.5


class StopFlag:
    """Set by a signal; read by the loop."""

    def __init__(self) -> None:
        self._stopped = False

    def set(self, *_: object) -> None:
        """Stop after the current batch."""
        self._stopped = True

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._stopped


class OtherLogError(Exception):
    """Redis holds projections of another history than the log's: a person must decide."""


class Projector:
    """The loop of one projector process."""

    def __init__(self) -> None:
        self.feed: feeds.Feed | None = None
        self.pending: feeds.Batch | None = None
        self.known_progress: dict[str, int] = {}
        self.look_due = 0.0

    def step(self) -> int:
        """Apply one batch; return how many events it had.

        Raises whatever Redis, PostgreSQL or Kafka raise; the batch is kept and tried again.
        """
        live, building = redis_store.generations()
        targets = [generation for generation in (live, building) if generation]
        if not targets:
            rebuild.ensure(reason="no generation in Redis")
            time.sleep(GENERATIONS_MISSING_PAUSE_SECONDS)
            return 0
        progress, offsets = redis_store.progress()
        if self.feed is not None and self._went_back(progress):
            log.warning("Redis is behind what was written to it: reading again from there")
            self.close()
        if self.feed is None:
            if problem := redis_store.problem_with_log():
                raise OtherLogError(problem)
            floor = rebuild.covered_by(targets)
            self.feed = feeds.open_feed(progress, offsets, floor=floor)
            self.known_progress = progress
            self._retry_parked(targets)
        self._look(targets)
        batch = self.pending or self.feed.poll()
        self.pending = batch
        for generation in targets:
            apply_events(generation, batch.events)
        trace("projected", batch.events)
        if batch.progress or batch.offsets:
            redis_store.save_progress(
                batch.progress, batch.offsets, batch.events[-1] if batch.events else None
            )
            self.known_progress = self.known_progress | batch.progress
        self.pending = None
        return len(batch.events)

    def run(self, should_stop: StopFlag) -> None:
        """`step` until told to stop, through every outage."""
        pause = 0.1
        while not should_stop.is_set():
            try:
                self.step()
                pause = 0.1
            except (redis_store.UNAVAILABLE, DatabaseError, BrokerUnavailableError) as error:
                log.warning("waiting for a service: %s", error)
                if isinstance(error, BrokerUnavailableError):
                    self.close()
                if isinstance(error, DatabaseError):
                    connection.close()
                    self.close()  # it may come back as another one
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
            except OtherLogError as error:
                log.error("nothing is projected: %s", error)  # noqa: TRY400  (the text says it all)
                time.sleep(OTHER_LOG_PAUSE_SECONDS)
        self.close()

    def close(self) -> None:
        """Let go of the feed; what was polled and not applied will come again."""
        if self.feed is not None:
            self.feed.close()
        self.feed = None
        self.pending = None
        self.known_progress = {}

    def _went_back(self, progress: dict[str, int]) -> bool:
        return any(
            progress.get(name, 0) < position for name, position in self.known_progress.items()
        )

    def _retry_parked(self, targets: list[str]) -> None:
        """After a start, perhaps with newer code: parked accounts get another chance."""
        for generation in targets:
            for account_id in redis_store.parked(generation):
                retry_parked(generation, account_id)

    def _look(self, targets: list[str]) -> None:
        """Say that this code is at work, and do what somebody asked for by a button."""
        if time.monotonic() < self.look_due:
            return
        self.look_due = time.monotonic() + LOOK_SECONDS
        redis_store.say_code(rebuild.SCHEMA)
        for account_id in redis_store.take_retries():
            for generation in targets:
                if account_id in redis_store.parked(generation):
                    retry_parked(generation, account_id)
