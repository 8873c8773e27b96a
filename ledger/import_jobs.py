"""Imports started from a page: the file waits in the database, a worker runs it, a row tells.

A job whose worker was killed is started again: rows that are in are skipped, so nothing doubles.
"""

import logging
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db.models.functions import Now

from ledger import imports
from ledger.domain.money import parse_amount_or_zero
from ledger.errors import LedgerError
from ledger.models import ImportJob

log = logging.getLogger(__name__)

STALE_AFTER = timedelta(seconds=60)
ROWS_MAX = 200_000
FILE_MAX = 20 * 1024 * 1024


def options_of(job: ImportJob) -> imports.Options:
    """The options that the job was made with."""
    stored: dict[str, Any] = job.options
    return imports.Options(
        source=stored["source"],
        currency=stored["currency"],
        overdraft_limit=parse_amount_or_zero(stored["overdraft_limit"], stored["currency"]),
        skip_bad_rows=stored["skip_bad_rows"],
    )


def start(job: ImportJob) -> None:
    """Hand a previewed job to a worker; a job that was started before is left alone."""
    waiting = ImportJob.objects.filter(pk=job.pk, status="previewed")
    if waiting.update(status="running", heartbeat_at=Now()):
        _dispatch(job)


def _dispatch(job: ImportJob) -> None:
    try:
        current_app.send_task("ledger.run_import", kwargs={"job_id": str(job.pk)})
    except Exception as error:  # noqa: BLE001  (the broker is away: the sweep picks the job up)
        log.warning("import %s waits for the sweep: %s", job.pk, error)


def resume() -> None:
    """Start jobs again that have not moved for a while."""
    for job in ImportJob.objects.filter(status="running", heartbeat_at__lt=Now() - STALE_AFTER):
        ImportJob.objects.filter(pk=job.pk).update(heartbeat_at=Now())
        _dispatch(job)


def run(job_id: str) -> None:
    """Run a job to its end. Running it twice at the same time is harmless."""
    job = ImportJob.objects.filter(pk=job_id, status="running").select_related("created_by").first()
    if job is None:
        return
    rows = ImportJob.objects.filter(pk=job_id)

    def note(done: int, _total: int) -> None:
        rows.update(rows_done=done, heartbeat_at=Now())

    try:
        options = options_of(job)
        parsed = imports.read(bytes(job.content), options)
        result = imports.run(parsed, options, actor=job.created_by.get_username(), progress=note)
        found = imports.as_json(imports.verify_balances(parsed, options))
        found["contradictions_total"] = len(found["contradictions"])
        found["contradictions"] = found["contradictions"][: imports.ERRORS_LISTED_MAX]
    except LedgerError as error:
        rows.update(status="failed", result={"error": error.detail})
        return
    status = "done" if result.accepted or result.already_imported else "refused"
    rows.update(
        status=status,
        content=b"",  # what it said is in the log now, where it can be erased
        rows_done=parsed.rows_total,
        result=imports.as_json(result) | {"verification": found},
    )
