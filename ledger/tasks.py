"""Celery wrappers of the event store: the sweep of due holds, and imports."""

from typing import Any

from celery import shared_task

from ledger import approvals, import_jobs, privacy, store
from ledger.domain.commands import ExpireHolds
from ledger.handlers import envelope
from ledger.service import bus

SWEEP_MAX = 500
SUMS_AT_ONCE = 16


@shared_task(name="ledger.expire_holds")
def expire_holds(**_: Any) -> int:
    """Record the expiry of holds that are due. Harmless when run twice: the second finds nothing."""
    now = store.clock()
    units = []
    for account_id in store.accounts_due(now, SWEEP_MAX):
        version = store.head_version(account_id)
        # Keyed by the version it looks at: two sweeps of one state are one command.
        key = f"expire/{account_id}/{version}/{now.isoformat(timespec='seconds')}"
        command = ExpireHolds(account_id=account_id)
        units.append(
            [envelope(command, sender="system", key=key, actor="system", channel="system")]
        )
    bus.send(units)
    return len(units)


@shared_task(name="ledger.keep_sums")
def keep_sums(**_: Any) -> None:
    """Keep the sums of the log as far as it goes, some hundred thousand events a call."""
    for _number in range(SUMS_AT_ONCE):
        if not store.keep_sums():
            return


@shared_task(name="ledger.run_import")
def run_import(*, job_id: str, **_: Any) -> None:
    """Import the file of a job."""
    import_jobs.run(job_id)


@shared_task(name="ledger.resume_imports")
def resume_imports(**_: Any) -> None:
    """Go on with imports that lost their worker."""
    import_jobs.resume()


@shared_task(name="ledger.run_approved")
def run_approved(**_: Any) -> int:
    """Send what was approved by somebody whose process ended before it could send it."""
    return approvals.resume()


@shared_task(name="ledger.finish_erasures")
def finish_erasures(**_: Any) -> int:
    """Destroy the keys whose erasure is recorded."""
    return privacy.finish_erasures()
