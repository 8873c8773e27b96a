"""Replays asked for on a page: a worker folds the log and compares, a row tells; then it swaps."""

import io
import logging
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
from celery import current_app
from django.core.management import call_command
from django.db.models.functions import Now

from audit import replay
from audit.models import Replay
from ledger import store
from ledger.codec import STATE_SCHEMA
from ledger.errors import ConflictError, NotFoundError

log = logging.getLogger(__name__)

LOST_AFTER = timedelta(seconds=120)
"""Without a sign of life for so long its worker is gone: another may be started."""


def start(user: Any, reason: str) -> Replay:
    """Have a worker replay the log.

    Raises:
        ConflictError: one is at work.
    """
    if any(
        row.status in ("running", "swapping") and not is_lost(row)
        for row in Replay.objects.all()[:5]
    ):
        raise ConflictError("a replay is already at work")
    row = Replay.objects.create(
        requested_by=user.get_username(), reason=reason, schema=STATE_SCHEMA
    )
    _send("audit.replay", row)
    return row


def swap(row: Replay) -> None:
    """Have a worker make everything anew that older code made, or that differs.

    Raises:
        ConflictError: the replay has not ended, or was swapped already.
    """
    if not Replay.objects.filter(pk=row.pk, status="done").update(
        status="swapping", heartbeat_at=Now()
    ):
        raise ConflictError("only a replay that has ended can be swapped, and once")
    _send("audit.swap", row)


def find(number: int) -> Replay:
    """The replay of this number.

    Raises:
        NotFoundError: there is none.
    """
    found = Replay.objects.filter(pk=number).first()
    if found is None:
        raise NotFoundError(f"replay {number} does not exist")
    return found


def is_lost(row: Replay) -> bool:
    """Whether its worker must be gone."""
    return row.finished_at is None and row.heartbeat_at < store.clock() - LOST_AFTER


def _send(task: str, row: Replay) -> None:
    current_app.send_task(task, kwargs={"replay_id": row.pk})


def run(replay_id: int) -> None:
    """Fold and compare, in a worker."""
    rows = Replay.objects.filter(pk=replay_id, status="running")

    def note(done: int, total: int) -> None:
        rows.update(accounts_done=done, accounts_total=total, heartbeat_at=Now())

    if not rows.exists():
        return
    try:
        report = replay.replay(schema=STATE_SCHEMA, progress=note)
    except Exception as error:
        log.exception("replay %d failed", replay_id)
        rows.update(status="failed", report={"error": repr(error)[:500]}, finished_at=Now())
        raise
    rows.update(status="done", report=msgspec.to_builtins(report), finished_at=Now())


def run_swap(replay_id: int) -> None:
    """Make heads, snapshots and projections anew, in a worker."""
    rows = Replay.objects.filter(pk=replay_id, status="swapping")
    if not rows.exists():
        return
    call_command("rebuild_state", stdout=io.StringIO())
    rows.update(heartbeat_at=Now())
    with suppress(SystemExit):  # it reports the same drift
        call_command("rebuild_projections", reason=f"replay {replay_id}", stdout=io.StringIO())
    rows.update(status="swapped", finished_at=Now())
