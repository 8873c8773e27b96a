"""The continuous checker: the passes of `checks`, a slice at a time, for ever.

A pass covers what was there when it began; the next begins after a pause. So a change of anything
stored is found within two passes, however old the row is. The admin shows the passes.
"""

import logging
import time
from datetime import timedelta

import msgspec
from django.conf import settings

from audit import checks, merkle
from audit.models import Pass
from ledger import store
from ledger.store import LOGS

log = logging.getLogger(__name__)

LOCK = 7021996118261
"""The advisory lock of the one checker at work."""
ACCOUNTS_AT_ONCE = 50
PASSES_KEPT = 100


def work(*, budget_seconds: float) -> Pass | None:
    """Go on with the pass at hand, or begin one if it is time; the pass, or None if it is not."""
    with store.single_flight(LOCK) as got:
        current = _current() if got else None
        if current is None:
            return None
        report = checks.Report(
            covered=current.covered,
            accounts=current.accounts,
            copies=current.copies,
            seals=current.seals,
            sums=current.sums,
            findings=msgspec.convert(current.findings, list[checks.Finding]),
            findings_total=current.findings_total,
        )
        known = current.findings_total
        _advance(current, report, time.monotonic() + budget_seconds)
        current.accounts, current.copies, current.seals = (
            report.accounts,
            report.copies,
            report.seals,
        )
        current.covered, current.sums = dict(report.covered), report.sums
        current.findings = msgspec.to_builtins(report.findings)
        current.findings_total = report.findings_total
        current.save()
        for finding in report.findings[known:]:
            log.error("verification: %s", finding)
        return current


def _current() -> Pass | None:
    newest = Pass.objects.first()
    if newest is not None:
        if newest.finished_at is None:
            return newest
        pause = timedelta(seconds=settings.LEDGER_CHECK_PAUSE_SECONDS)
        if store.clock() < newest.finished_at + pause:
            return None
        Pass.objects.filter(pk__lte=newest.pk - PASSES_KEPT).delete()
    ends = {log_name: store.end_of(log_name) for log_name in LOGS}
    return Pass.objects.create(started_at=store.clock(), ends=ends)


def _advance(current: Pass, report: checks.Report, deadline: float) -> None:
    """Go through the stages: each log, then the accounts, then the sums."""
    while current.finished_at is None:
        if current.stage in LOGS:
            _along_log(current, report, deadline)
        elif current.stage == "accounts":
            if not current.last_account:
                checks.check_heads_exist(report)
                current.last_account = checks.FIRST_ACCOUNT
            last = checks.check_accounts_after(
                report, current.last_account, ACCOUNTS_AT_ONCE, end=current.ends["events"]
            )
            if last:
                current.last_account = last
            else:
                current.stage = "sums"
        else:
            checks.check_sums(report, current.ends["events"])
            current.finished_at = store.clock()
        if time.monotonic() >= deadline:
            return


def _along_log(current: Pass, report: checks.Report, deadline: float) -> None:
    at = [str(name) for name in LOGS].index(current.stage)
    along = checks.pass_along(
        LOGS[at],
        report,
        current.ends[current.stage],
        growing=merkle.Growing(
            current.position, [(height, bytes.fromhex(peak)) for height, peak in current.peaks]
        ),
        before=current.before,
    )
    while not along.is_done:
        along.step()
        if time.monotonic() >= deadline:
            break
    if along.is_done:
        current.stage, current.position, current.peaks = [*LOGS, "accounts"][at + 1], 0, []
        return
    current.position = along.growing.size
    current.peaks = [[height, peak.hex()] for height, peak in along.growing.peaks]
    if isinstance(along, checks.EventsPass):
        current.before = along.before
