"""Build the projections anew beside the live ones, compare, swap. Live traffic goes on.

1. `start` marks a new generation as building: projectors now write to it as well.
2. `build_shard` folds the events of every account in a shard. Writes are guarded by version, so
   builder and projector may meet on an account in any order.
3. On the way each account is compared with the live generation at the version that one has: what
   differs is drift, reported with the first event at which the two part.
4. The last shard swaps the pointer, and the old keys are dropped.

A build covers the log up to a position read after step 1, so nothing falls between builder and
projector. A killed shard is started again; everything is idempotent. Nothing outside Redis is
touched: no message, mail or command comes from a rebuild.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

from celery import current_app
from django.db import IntegrityError
from django.db.models import F, Q
from django.db.models.functions import Now

from ledger import activity, codec, store
from ledger.codec import STATE_SCHEMA, RecordedEvent
from ledger.domain.state import Account, evolve
from ledger.errors import StateIncompleteError
from projections import balances, redis_store
from projections.apply import CHUNK_MAX, apply_events, project_or_refuse
from projections.models import Generation

log = logging.getLogger(__name__)

SHARDS = 16
ACCOUNTS_PER_READ = 500
DRIFT_LISTED_MAX = 200
STALE_AFTER = timedelta(seconds=20)
"""A build without a heartbeat for so long has lost its workers."""
SCHEMA = f"{STATE_SCHEMA}.{codec.logic_of((balances, activity))}"
"""Names the logic that makes projections; a live generation of another one is rebuilt."""


class AlreadyRunningError(Exception):
    """Another rebuild is at work."""


def covered_by(generation_ids: Sequence[str]) -> int:
    """The lowest log position that the builds of these generations cover."""
    found = Generation.objects.filter(pk__in=generation_ids).values_list("from_position", flat=True)
    return min(found, default=0)


def start(*, reason: str, requested_by: str) -> Generation:
    """Begin a new generation.

    Raises:
        AlreadyRunningError: one is being built.
    """
    try:
        generation = Generation.objects.create(
            schema=SCHEMA,
            reason=reason,
            requested_by=requested_by,
            shards_total=SHARDS,
            accounts_total=store.count_accounts(),
        )
    except IntegrityError as error:
        raise AlreadyRunningError("a rebuild is already running") from error
    redis_store.start_building(str(generation.pk))
    generation.from_position = store.last_position()
    generation.save(update_fields=["from_position"])
    redis_store.cover(str(generation.pk), generation.from_position)
    return generation


def dispatch(generation: Generation) -> None:
    """Hand the shards that are not done to Celery's workers."""
    for shard in range(generation.shards_total):
        if shard not in generation.shards_done:
            current_app.send_task(
                "projections.build_shard",
                kwargs={"generation_id": generation.pk, "shard": shard},
            )


def ensure(*, reason: str) -> None:
    """Make sure that a live generation exists or is on its way. Safe to call at any time.

    Starts a build when none is there, when the live one was made by other code or has lost an
    account; resumes one that lost its workers; gives one up that Redis no longer knows. While
    projectors of that other code are still at work (a rolling deploy, either way), it waits: two
    releases must not rebuild against each other.
    """
    with store.single_flight(store.Lock.REBUILD) as got:
        if not got:
            return
        live, building = redis_store.generations()
        row = _under_way(building)
        if row is not None:
            is_stale = Q(heartbeat_at__lt=Now() - STALE_AFTER) | Q(
                heartbeat_at__gt=Now() + STALE_AFTER  # the clock was set back
            )
            if Generation.objects.filter(is_stale, pk=row.pk).update(heartbeat_at=Now()):
                dispatch(row)
            return
        current = Generation.objects.filter(status="live").first()
        if live and current is not None and str(current.pk) == live:
            if current.schema != SCHEMA:
                if redis_store.is_code_at_work(current.schema):
                    return
                reason = "the projections were made by other code"
            elif redis_store.is_suspect(live):
                reason = "an account was lost from Redis"
            else:
                return
        dispatch(start(reason=reason, requested_by="system"))


def _under_way(building: str) -> Generation | None:
    """The build under way. One that Redis forgot, or whose code is gone, is given up."""
    row = Generation.objects.filter(status="building").first()
    if row is None:
        return None
    if building == str(row.pk):
        if row.schema == SCHEMA or redis_store.is_code_at_work(row.schema):
            return row
        redis_store.give_up(building)
    Generation.objects.filter(pk=row.pk).update(status="failed", finished_at=Now())
    return None


def build_shard(
    generation_id: int, shard: int, *, progress: Callable[[int], None] | None = None
) -> None:
    """Build one shard; the one that finishes last swaps the generations.

    A worker of other code than the build's leaves it alone: `ensure` hands it out again.
    """
    generation = Generation.objects.filter(
        pk=generation_id, status="building", schema=SCHEMA
    ).first()
    if generation is None or shard in generation.shards_done:
        return
    live, _ = redis_store.generations()
    after = store.FIRST_ACCOUNT
    while ids := store.account_ids_of_shard(
        shard, generation.shards_total, after, ACCOUNTS_PER_READ
    ):
        drift = _build_accounts(str(generation_id), live, ids)
        after = ids[-1]
        _note(generation_id, accounts=len(ids), drift=drift)
        if progress is not None:
            progress(len(ids))
    _shard_done(generation_id, shard)


def _note(generation_id: int, *, accounts: int, drift: list[dict[str, Any]]) -> None:
    rows = Generation.objects.filter(pk=generation_id)
    rows.update(accounts_done=F("accounts_done") + accounts, heartbeat_at=Now())
    if drift:
        with store.transaction_lock(store.Lock.REBUILD + 1):
            row = rows.get()
            row.drift = (row.drift + drift)[:DRIFT_LISTED_MAX]
            row.drift_total += len(drift)
            row.save(update_fields=["drift", "drift_total"])


def _shard_done(generation_id: int, shard: int) -> None:
    with store.transaction_lock(store.Lock.REBUILD + 1):
        row = Generation.objects.get(pk=generation_id)
        if shard not in row.shards_done:
            row.shards_done = [*row.shards_done, shard]
            row.save(update_fields=["shards_done"])
        is_last = row.status == "building" and len(row.shards_done) == row.shards_total
        before = swap(row) if is_last else ""
    if before:
        redis_store.drop(before)


def swap(generation: Generation) -> str:
    """Show readers the new generation; returns the one they saw before."""
    _, building = redis_store.generations()
    if building != str(generation.pk):
        Generation.objects.filter(pk=generation.pk).update(status="failed", finished_at=Now())
        log.warning("generation %s is no longer known to Redis", generation.pk)
        return ""
    Generation.objects.filter(status="live").update(status="dropped")
    Generation.objects.filter(pk=generation.pk).update(status="live", finished_at=Now())
    before = redis_store.go_live(str(generation.pk))
    log.info("generation %s is live: %d accounts", generation.pk, generation.accounts_total)
    return before if before != str(generation.pk) else ""


def _build_accounts(generation: str, live: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Fold these accounts into `generation`; returns where `live` differs."""
    old = dict(zip(ids, redis_store.load(live, ids), strict=True)) if live else {}
    drift: list[dict[str, Any]] = []
    for account_id, events in groupby(store.read_streams(ids), key=lambda item: item.account_id):
        try:
            found = _build_account(generation, account_id, events, old.get(account_id))
        except StateIncompleteError as error:
            redis_store.park(generation, account_id, error.detail)
            continue
        if found is not None:
            drift.append(found | {"first_version": _first_difference(live, account_id)})
    return drift


def _chunks(events: Iterator[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    chunk: list[RecordedEvent] = []
    for event in events:
        chunk.append(event)
        if len(chunk) == CHUNK_MAX:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _build_account(
    generation: str,
    account_id: str,
    events: Iterator[RecordedEvent],
    old: redis_store.Entry | None,
) -> dict[str, Any] | None:
    account = Account(account_id=account_id)
    at_old: Account | None = None
    met: RecordedEvent | None = None
    for chunk in _chunks(events):
        change = project_or_refuse(account, chunk)
        if old is not None and account.version < old.account.version <= change.account.version:
            is_end = old.account.version == change.account.version
            at_old = change.account if is_end else _fold_until(account, chunk, old.account.version)
        account = change.account
        if redis_store.apply(generation, [(change, change.before_version)]) != [-1]:
            met = chunk[-1]
    if met is not None:  # the projector was here too: make sure that nobody stopped half-way
        apply_events(generation, [met])
    if old is None or at_old is None or at_old == old.account:
        return None
    return {
        "account_id": account_id,
        "version": old.account.version,
        "projected_balance": old.account.balance,
        "true_balance": at_old.balance,
        "currency": at_old.currency,
    }


def _fold_until(account: Account, events: Sequence[RecordedEvent], version: int) -> Account:
    for recorded in events:
        if recorded.version <= version:
            account = evolve(account, recorded.event)
    return account


def _first_difference(live: str, account_id: str) -> int | None:
    """The first version in the live activity whose balance is not what the events say."""
    lines = {line.version: line for line in redis_store.activity(live, account_id, 100)}
    account = Account(account_id=account_id)
    for recorded in store.read_streams([account_id]):
        account = evolve(account, recorded.event)
        line = lines.get(recorded.version)
        if line is not None and line.balance != account.balance:
            return recorded.version
    return None


def run_inline(
    *, reason: str, requested_by: str, progress: Callable[[int, int], None]
) -> Generation:
    """Build a whole generation in this process; `progress` gets accounts done and in total."""
    generation = start(reason=reason, requested_by=requested_by)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, max(generation.accounts_total, done))

    for shard in range(generation.shards_total):
        build_shard(generation.pk, shard, progress=advance)
    generation.refresh_from_db()
    return generation
