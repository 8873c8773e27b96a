"""Typed reads for pages and API, each with where it came from and how current it is.

Redis first. When the entry is missing, is older than the caller has seen, or Redis is away, the
event store answers and the answer says so. A balance is never guessed.
"""

import logging
import math
import threading
import time
from datetime import timedelta
from itertools import pairwise
from typing import Literal

import msgspec
from django.conf import settings

from ledger import history, store
from ledger.activity import ActivityLine, activity_lines
from ledger.codec import RecordedEvent
from ledger.domain.state import Account
from ledger.errors import NotFoundError
from projections import feeds, redis_store
from projections.balances import ACTIVITY_KEPT
from projections.models import Relay

log = logging.getLogger(__name__)

Source = Literal["projection", "event-store"]


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """An account as projected. `lag_events` counts this account's events not yet projected."""

    account: Account
    position: int
    source: Source
    projected_position: int
    lag_events: int

    @property
    def is_current(self) -> bool:
        """Whether the projection holds every event of the account."""
        return self.lag_events == 0


BEARINGS_SECONDS = 0.02
"""How long a process takes for known where the projections are."""
BEARINGS_MAX_SECONDS = 0.2
"""From this age on nobody goes by the old bearings while another thread renews them."""


IDENTIFIED_SECONDS = 1.0
"""How often a process makes sure that the projections are of this log, not of one restored since."""


class _Bearings(msgspec.Struct, frozen=True, kw_only=True):
    """The live generation (or none), up to where it is complete but for `parked`, and the log's end."""

    live: str
    complete: int
    parked: frozenset[str]
    end: int


_NOWHERE = _Bearings(live="", complete=0, parked=frozenset(), end=-1)


class _Compass:
    """Keeps the bearings of this process. One thread renews them, the others do not wait for it."""

    def __init__(self) -> None:
        self._known = _NOWHERE
        self._taken = -math.inf
        self._identified = -math.inf
        self._problem = ""
        self._lock = threading.Lock()

    def bearings(self) -> _Bearings:
        """The bearings as of `BEARINGS_SECONDS` ago at most, and what renewing them takes.

        Raises whatever Redis and PostgreSQL raise.
        """
        age = time.monotonic() - self._taken
        if age > BEARINGS_SECONDS and self._lock.acquire(blocking=age > BEARINGS_MAX_SECONDS):
            try:
                if time.monotonic() - self._taken > BEARINGS_SECONDS:
                    self._renew()
            finally:
                self._lock.release()
        return self._known

    def _renew(self) -> None:
        now = time.monotonic()
        end = store.last_position()
        live, _ = redis_store.generations()
        if live and now - self._identified > IDENTIFIED_SECONDS:
            self._problem = redis_store.problem_with_log()
            self._identified = now
            if self._problem:
                log.error("the event store answers: %s", self._problem)
        if live and self._problem:
            self._known, self._taken = _NOWHERE, now
            return
        complete, parked = 0, frozenset[str]()
        if live:
            complete, parked = redis_store.standing(live, feeds.partitions())
        self._known = _Bearings(live=live, complete=complete, parked=parked, end=end)
        self._taken = now


_compass = _Compass()


ENTRIES_KEPT = 4096


class _Entries:
    """Entries as fetched while the projections stood at a position: they need not be fetched again.

    Of two that were fetched at the same position the newer one stays, so that no reader goes back.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, redis_store.Entry]] = {}
        self._lock = threading.Lock()

    def get(self, generation: str, account_id: str, complete: int) -> redis_store.Entry | None:
        """The account's entry, if there is one that can be trusted."""
        key = (generation, account_id)
        known = self._known.get(key)
        if known is not None and known[0] == complete:
            return known[1]
        entry = redis_store.read(generation, account_id)
        if entry is None:
            return None
        with self._lock:
            known = self._known.get(key)
            if known is not None and known[0] == complete:
                entry = max(known[1], entry, key=lambda item: item.account.version)
            elif len(self._known) >= ENTRIES_KEPT:
                self._known.clear()
            self._known[key] = (complete, entry)
        return entry


_entries = _Entries()


def _projected(account_id: str) -> tuple[_Bearings, redis_store.Entry | None]:
    """Where the projections are, and the account's entry."""
    try:
        bearings = _compass.bearings()
        if not bearings.live:
            return bearings, None
        return bearings, _entries.get(bearings.live, account_id, bearings.complete)
    except redis_store.UNAVAILABLE as error:
        log.warning("Redis is away, the event store answers: %s", error)
        return _NOWHERE, None


def account(account_id: str, *, at_least: int = 0) -> AccountView:
    """The account, at or beyond the log position `at_least` as far as it is concerned.

    Where the projections are complete up to the log's end, Redis alone answers: `lag_events` is
    then as of at most `BEARINGS_SECONDS` ago. Otherwise the account's head tells how far behind
    its entry is.

    Raises:
        NotFoundError: no such account.
        StateIncompleteError: it has an event newer than this code.
    """
    bearings, entry = _projected(account_id)
    complete = 0 if account_id in bearings.parked else bearings.complete
    if entry is not None and at_least <= complete == bearings.end:
        return _projected_view(entry, complete, lag=0)
    version = store.head_version(account_id)
    if version == 0:
        raise NotFoundError(f"account {account_id} does not exist")
    lag = version - entry.account.version if entry else version
    # An entry ahead of the head belongs to a log that was since restored to an earlier state.
    if entry is not None and max(entry.position, complete) >= at_least and lag >= 0:
        return _projected_view(entry, complete, lag=lag)
    state, position = history.current(account_id)
    return AccountView(
        account=state,
        position=position,
        source="event-store",
        projected_position=max(entry.position if entry else 0, complete),
        lag_events=max(lag, 0),
    )


def _projected_view(entry: redis_store.Entry, complete: int, *, lag: int) -> AccountView:
    return AccountView(
        account=entry.account,
        position=entry.position,
        source="projection",
        projected_position=max(entry.position, complete),
        lag_events=lag,
    )


def activity(account_id: str, limit: int = ACTIVITY_KEPT) -> list[ActivityLine]:
    """The newest activity, newest first: projected, or from the newest events."""
    bearings, entry = _projected(account_id)
    if entry is not None:
        try:
            lines = redis_store.activity(bearings.live, account_id, limit)
        except redis_store.UNAVAILABLE:
            lines = []
        if lines and lines[0].version == entry.account.version:
            return lines
    newest = store.read_stream_backwards(account_id, before=2**31 - 1, limit=limit)
    return activity_of(list(reversed(newest)))


def activity_of(events: list[RecordedEvent]) -> list[ActivityLine]:
    """Activity lines of consecutive events of one account, newest first."""
    if not events:
        return []
    before = history.fold_to(events[0].account_id, events[0].version - 1)
    return list(activity_lines(before, events))[::-1]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How current the projections are, for the dashboard and ``/readyz``."""

    log_position: int
    projected_position: int
    relayed_position: int | None
    relay_error: str
    generation: str
    building: str
    parked: dict[str, str]
    redis_error: str

    @property
    def unrelayed(self) -> int:
        """Events of the log that are not on the topic yet; 0 without Kafka."""
        if self.relayed_position is None:
            return 0
        return max(0, self.log_position - self.relayed_position)

    @property
    def lag_events(self) -> int:
        """Events of the log that are not projected yet."""
        return max(0, self.log_position - self.projected_position)


def health() -> Health:
    """The state of relay and projections; never fails for Redis being away."""
    last = store.last_position()
    relay = Relay.objects.filter(topic=settings.LEDGER_TOPIC).first()
    live = building = error_text = ""
    parked: dict[str, str] = {}
    projected = 0
    try:
        live, building = redis_store.generations()
        if live:
            projected = redis_store.watermark(live, feeds.partitions())
            parked = redis_store.parked(live)
    except redis_store.UNAVAILABLE as error:
        error_text = str(error)
    return Health(
        log_position=last,
        projected_position=projected,
        relayed_position=relay.position if relay and settings.LEDGER_BUS == "kafka" else None,
        relay_error=relay.error if relay else "",
        generation=live,
        building=building,
        parked=parked,
        redis_error=error_text,
    )


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One hour of the chart of `Pace`: a box of at most 40 units."""

    count: int
    x: int
    y: int
    height: int


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Events recorded in the last minute, hour and day; and hour by hour, the latest last."""

    minute: int
    hour: int
    day: int
    most: int
    bars: list[Bar]


def pace() -> Pace:
    """How busy the ledger is."""
    now, end = store.clock(), store.last_position()
    hours = [now - timedelta(hours=ago) for ago in range(24, 0, -1)]
    minute, *starts = store.positions_at([now - timedelta(minutes=1), *hours])
    counts = [later - earlier for earlier, later in pairwise([*starts, end])]
    most = max(counts)
    return Pace(
        minute=end - minute,
        hour=counts[-1],
        day=end - starts[0],
        most=most,
        bars=[
            Bar(count=count, x=number * 10 + 1, y=40 - height, height=height)
            for number, count in enumerate(counts)
            for height in [count * 40 // max(most, 1)]
        ],
    )


def totals() -> dict[str, dict[str, int]]:
    """Per currency: accounts, events, balances and each outside counterpart, in minor units.

    Empty when Redis is away or no generation is live; the trial balance of the log is the truth.
    """
    try:
        live, _ = redis_store.generations()
        counts = redis_store.totals(live) if live else {}
    except redis_store.UNAVAILABLE:
        counts = {}
    by_currency: dict[str, dict[str, int]] = {}
    for name, value in counts.items():
        currency, _, rest = name.partition("|")
        by_currency.setdefault(currency, {})[rest] = value
    return by_currency


def summary(account_id: str) -> dict[str, dict[str, int]]:
    """Per month and kind: ``{"2026-03": {"deposit": signed minor units}}``; empty when away."""
    try:
        live, _ = redis_store.generations()
        counts = redis_store.summary(live, account_id) if live else {}
    except redis_store.UNAVAILABLE:
        counts = {}
    months: dict[str, dict[str, int]] = {}
    for name, value in counts.items():
        day, kind, what = name.split("|")
        if what == "s":
            month = months.setdefault(day[:7], {})
            month[kind] = month.get(kind, 0) + value
    return months
