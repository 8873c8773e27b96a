"""Bring accounts in Redis up to date with events, whoever else does so at the same time."""

import logging
from collections.abc import Sequence

from ledger import store
from ledger.codec import RecordedEvent
from ledger.domain.state import Account
from ledger.errors import StateIncompleteError
from projections import redis_store
from projections.balances import Change, project

log = logging.getLogger(__name__)

CHUNK_MAX = 2000
"""Events of one account in one write: bounds memory and the time Redis is busy."""
RACES_MAX = 20


def apply_events(generation: str, events: Sequence[RecordedEvent]) -> frozenset[str]:
    """Bring the accounts of `events` up to date in one generation.

    Every account ends at or beyond its last event here, or is parked; returns those that are.
    """
    waiting: dict[str, list[RecordedEvent]] = {}
    for event in events:
        waiting.setdefault(event.account_id, []).append(event)
    races = 0
    parked: set[str] = set()
    while waiting:
        waiting, lost = _apply_once(generation, waiting, parked)
        races = races + 1 if lost else 0
        if races > RACES_MAX:
            raise RuntimeError(f"{len(waiting)} accounts kept changing under the projector")
    return frozenset(parked)


def _apply_once(
    generation: str, waiting: dict[str, list[RecordedEvent]], parked: set[str]
) -> tuple[dict[str, list[RecordedEvent]], bool]:
    """One write per account; returns what is left to do, and whether a race was lost."""
    account_ids = list(waiting)
    changes: list[tuple[Change, int]] = []
    left: dict[str, list[RecordedEvent]] = {}
    lost = False
    stored = redis_store.load_stored(generation, account_ids)
    for account_id, found in zip(account_ids, stored, strict=True):
        entry = found.entry
        account = entry.account if entry else Account(account_id=account_id)
        events = _newer(waiting[account_id], account.version)
        if not events:
            continue
        try:
            change = _change(account, _unbroken(events))
        except StateIncompleteError as error:
            log.error(  # noqa: TRY400  (no bug)
                "account %s is parked: %s",
                account_id,
                error,
                extra={"correlation_id": events[-1].metadata.correlation_id},
            )
            redis_store.park(generation, account_id, error.detail)
            parked.add(account_id)
            continue
        if entry is None and (found.version or events[0].version > 1):
            redis_store.suspect(generation)  # lost, or in a generation that is still being built
        changes.append((change, found.version))
        if change.account.version < events[-1].version:
            left[account_id] = events
    answers = redis_store.apply(generation, changes)
    for (change, _), answer in zip(changes, answers, strict=True):
        if answer != -1:
            lost = True
            left[change.account.account_id] = waiting[change.account.account_id]
    return left, lost


def _newer(events: Sequence[RecordedEvent], version: int) -> list[RecordedEvent]:
    """Those after `version`, each once, in order: a feed may hand one out twice."""
    found = {event.version: event for event in events if event.version > version}
    return [found[number] for number in sorted(found)]


def _unbroken(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The events before the first hole among them."""
    return [
        event for count, event in enumerate(events) if event.version == events[0].version + count
    ]


def _change(account: Account, events: list[RecordedEvent]) -> Change:
    """What `events` do to `account`, at most CHUNK_MAX of them.

    A hole before them is filled from the event store, which then stands for the feed.

    Raises:
        StateIncompleteError: an event is newer than this code or cannot be folded, or the log does
            not have the hole.
    """
    if events[0].version != account.version + 1:
        log.info("account %s: reading versions after %d", account.account_id, account.version)
        events = store.read_stream(account.account_id, after=account.version, limit=CHUNK_MAX)
        if not events:
            raise StateIncompleteError(
                f"the feed has events that the log has not after version {account.version}: the "
                "database was restored to an earlier state; see docs/operations.md, restore"
            )
    return project_or_refuse(account, events[:CHUNK_MAX])


def project_or_refuse(account: Account, events: Sequence[RecordedEvent]) -> Change:
    """`balances.project`, where nothing that an event does is worse than a refusal.

    Raises:
        StateIncompleteError: an event is newer than this code, or cannot be folded.
    """
    try:
        return project(account, events)
    except StateIncompleteError:
        raise
    except Exception as error:
        # A fault in the fold, or an event that no command wrote: it stops this account alone.
        log.exception("account %s cannot be folded", account.account_id)
        raise StateIncompleteError(
            f"an event after version {account.version} cannot be folded: {error!r}"
        ) from error


def retry_parked(generation: str, account_id: str) -> None:
    """Try a parked account again; one that works is parked no longer.

    Only the projector calls this, so that nobody parks it in between.
    """
    if account_id not in apply_events(generation, store.newest_of(account_id)):
        redis_store.unpark(generation, account_id)
