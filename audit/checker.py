"""The continuous checker: the passes of `checks`, a slice at a time, for ever.

A pass covers what was there when it began; the next begins after a pause. So a change of anything
stored is found within two passes, however old the row is. The admin shows the passes.
"""

import logging
import math
import time
from datetime import datetime, timedelta

import msgspec
from django.conf import settings

from audit import checks, merkle, seals
from audit.models import Pass, Seal
from ledger import store
from ledger.codec import RecordedEvent
from ledger.store import LOGS, Log

log = logging.getLogger(__name__)

ACCOUNTS_AT_ONCE = 50
PASSES_KEPT = 100


def work(*, budget_seconds: float) -> Pass | None:
    """Go on with the pass at hand, or begin one if it is time; the pass, or None if it is not."""
    with store.single_flight(store.Lock.CHECKER) as got:
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


class LogStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log is sealed; `behind_seconds` since the seal if entries came after it."""

    log: str
    end: int
    seal: Seal | None
    unsealed: int
    behind_seconds: int
    witnessed: int


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """In one line: what the worst of the last passes found, and whether one has ended."""

    last_full: Pass | None
    findings_total: int


def brief() -> Brief:
    """For pages about other things."""
    last = Pass.objects.filter(finished_at__isnull=False).first()
    running = Pass.objects.filter(finished_at__isnull=True).first()
    found = [item.findings_total for item in (last, running) if item is not None]
    return Brief(last_full=last, findings_total=max(found, default=0))


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand: what was checked, found and sealed."""

    last_full: Pass | None
    running: Pass | None
    age_seconds: int
    took_seconds: int
    bound_seconds: int
    pause_seconds: int
    oldest_unchecked: RecordedEvent | None
    unchecked: int
    findings: list[dict[str, str]]
    findings_total: int
    logs: list[LogStanding]
    public_keys: list[str]


def standing() -> Standing:
    """For the page about integrity."""
    now = store.clock()
    last = Pass.objects.filter(finished_at__isnull=False).first()
    running = Pass.objects.filter(finished_at__isnull=True).first()
    took = age = bound = covered = 0
    if last is not None and last.finished_at is not None:
        took = math.ceil((last.finished_at - last.started_at).total_seconds())
        age = int((now - last.finished_at).total_seconds())
        bound = 2 * took + settings.LEDGER_CHECK_PAUSE_SECONDS
        covered = last.covered.get("events", 0)
    worst = max(
        (item for item in (running, last) if item is not None),
        key=lambda item: item.findings_total,
        default=None,
    )
    oldest = store.read_log(after=covered, limit=1)
    return Standing(
        last_full=last,
        running=running,
        age_seconds=age,
        took_seconds=took,
        bound_seconds=bound,
        pause_seconds=settings.LEDGER_CHECK_PAUSE_SECONDS,
        oldest_unchecked=oldest[0] if oldest else None,
        unchecked=store.last_position() - covered,
        findings=worst.findings if worst is not None else [],
        findings_total=worst.findings_total if worst is not None else 0,
        logs=[_standing_of(log_name, now) for log_name in LOGS],
        public_keys=seals.public_keys(),
    )


def _standing_of(log_name: Log, now: datetime) -> LogStanding:
    last, end = seals.newest(log_name), store.end_of(log_name)
    sealed = last.size if last is not None else 0
    witnessed = seals.last_witnessed(log_name)
    since = last.sealed_at if last is not None and end > sealed else now
    return LogStanding(
        log=log_name,
        end=end,
        seal=last,
        unsealed=end - sealed,
        behind_seconds=int((now - since).total_seconds()),
        witnessed=witnessed.size if witnessed is not None else 0,
    )


def _advance(current: Pass, report: checks.Report, deadline: float) -> None:
    """Go through the stages: each log, then the accounts, then the sums."""
    while current.finished_at is None:
        if current.stage in LOGS:
            _along_log(current, report, deadline)
        elif current.stage == "accounts":
            if not current.last_account:
                checks.check_heads_exist(report)
                current.last_account = store.FIRST_ACCOUNT
            last = checks.check_accounts_after(
                report, current.last_account, ACCOUNTS_AT_ONCE, end=current.ends["events"]
            )
            if last:
                current.last_account = last
            else:
                current.stage = "sums"
        else:
            checks.check_sums(report, current.ends["events"])
            checks.check_outside(report)
            current.finished_at = store.clock()
        if time.monotonic() >= deadline:
            return


def _along_log(current: Pass, report: checks.Report, deadline: float) -> None:
    at = LOGS.index(current.stage)
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
    current.before = along.before
