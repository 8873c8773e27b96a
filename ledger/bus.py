"""The command bus: concurrent commands of one process share their round trips to the database.

A request thread hands its command over and waits. One worker takes whatever is waiting, loads all
heads in one query, decides one after another, and appends everything in one call; what comes in
meanwhile is the next batch. So alone a command waits for nobody, and the busier it is the more
commands share a round trip. Other processes are met by compare-and-set, and from the second try on
under the log's lock, so a hot account cannot starve.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from django.conf import settings

from ledger import metrics, store
from ledger.errors import BusyError, ConflictError, StoreUnavailableError
from ledger.handlers import Envelope, Outcome, Plan, Result, Unit
from ledger.trace import trace

log = logging.getLogger(__name__)

BATCH_MAX = 512
"""Commands per append; about 100 is the knee, beyond 500 nothing is gained (FINDINGS)."""
QUEUE_MAX = 4096
"""Commands that may wait; at the slowest rate measured this is two seconds of work."""
TRIES = 6
"""From the second try on the log's lock is held, so a third is already unusual."""


class _Waiting:
    """A unit in the queue, and its results once `done` is released."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.results: list[Result] = []
        self.done = threading.Lock()  # the lightest thing to wait on
        self.done.acquire()


class CommandBus:
    """One per process; see the module. `on_append` is called after every successful append."""

    def __init__(self, on_append: Callable[[int], None] | None = None) -> None:
        self.on_append = on_append
        self._queue: list[_Waiting] = []
        self._queued = 0
        self._changed = threading.Condition()
        self._process = 0

    def send(self, units: Sequence[Unit]) -> list[list[Result]]:
        """Decide and append `units`; block until each has a result.

        A result is an `Outcome` (refusals included) or the exception that kept the command from
        being decided. Units do not affect each other; the order of units on one account is kept.

        Raises:
            BusyError: the queue is full; nothing was taken.
        """
        waiting = [_Waiting(unit) for unit in units]
        size = sum(len(unit) for unit in units)
        with self._changed:
            self._start_worker()
            if self._queued and self._queued + size > QUEUE_MAX:
                raise BusyError("too many commands are waiting; nothing was done")
            self._queued += size
            self._queue += waiting
            self._changed.notify()
        for item in waiting:
            item.done.acquire()
        return [item.results for item in waiting]

    def send_one(self, item: Envelope) -> Outcome:
        """As `send`, for one envelope; raises what kept it from being decided."""
        [[result]] = self.send([[item]])
        if isinstance(result, Outcome):
            return result
        raise result

    def _start_worker(self) -> None:
        if self._process == os.getpid():  # threads do not survive a fork
            return
        self._process = os.getpid()
        self._queue, self._queued = [], 0
        threading.Thread(target=self._run, name="bus", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                taken = self._take()
            results = self._results([item.unit for item in taken])
            count = sum(len(item.unit) for item in taken)
            metrics.BATCH.observe(count)
            _count(taken, results)
            with self._changed:
                self._queued -= count
            for item, found in zip(taken, results, strict=True):
                item.results = found
                item.done.release()

    def _take(self) -> list[_Waiting]:
        """The first units of the queue, up to BATCH_MAX commands but at least one unit."""
        size = count = 0
        for item in self._queue:
            size += len(item.unit)
            if count and size > BATCH_MAX:
                break
            count += 1
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    def _results(self, units: Sequence[Unit]) -> list[list[Result]]:
        """The results of `units`; a fault that is no refusal is pinned to the unit that has it."""
        try:
            return self._process_units(units)
        except Exception as error:
            if len(units) > 1:
                log.warning("a batch of %d failed; trying its units one by one", len(units))
                return [result for unit in units for result in self._results([unit])]
            log.exception("%s failed", type(units[0][0].command).__name__)
            return [[error for _ in unit] for unit in units]

    def _process_units(self, units: Sequence[Unit]) -> list[list[Result]]:
        """Load, decide and append, again from the start whenever a race is lost.

        A lost connection is tried once more: should the append have committed after all, the
        second try finds the idempotency keys recorded and answers with what they came to.
        """
        for attempt in range(TRIES):
            try:
                results = self._attempt(units, locked=attempt > 0)
            except StoreUnavailableError as error:
                if attempt:
                    return [[error for _ in unit] for unit in units]
                continue
            if results is not None:
                return results
            metrics.CONFLICTS.inc()
        lost = ConflictError("the accounts changed on every try; nothing was done")
        return [[lost for _ in unit] for unit in units]

    def _attempt(self, units: Sequence[Unit], *, locked: bool) -> list[list[Result]] | None:
        began = time.perf_counter()
        with store.available():
            if locked:
                with store.log_lock():
                    plan, done = _decide_and_append(units)
            else:
                plan, done = _decide_and_append(units)
            if done.status != "appended":
                return None
            metrics.APPEND.observe(time.perf_counter() - began)
            results = [[_result_of(plan, item, done) for item in unit] for unit in units]
        if plan.events and settings.LEDGER_TRACE:
            trace("committed", store.read_range(done.base + 1, done.base + len(plan.events)))
        if plan.events and self.on_append is not None:
            self.on_append(done.base + len(plan.events))
        return results


def _count(taken: Sequence[_Waiting], results: Sequence[Sequence[Result]]) -> None:
    for item, found in zip(taken, results, strict=True):
        for sent, result in zip(item.unit, found, strict=True):
            metrics.COMMANDS.labels(type(sent.command).__name__, _came_to(result)).inc()


def _came_to(result: Result) -> str:
    if not isinstance(result, Outcome):
        return "failed"
    if result.replayed:
        return "replayed"
    return "accepted" if result.error is None else "rejected"


def _decide_and_append(units: Sequence[Unit]) -> tuple[Plan, store.Appended]:
    items = [item for unit in units for item in unit]
    loaded = store.load(
        accounts=sorted({account for item in items for account in item.command.account_ids}),
        keys=[item.identity for item in items if not item.dry_run],
        transactions=sorted({undone for item in items if (undone := item.command.undoes)}),
    )
    plan = Plan(loaded)
    plan.run(units)
    batch = plan.batch()
    if not batch:
        return plan, store.Appended(status="appended")
    if not plan.sealer.save():  # another process made a key for the same account: use that one
        return plan, store.Appended(status="conflict")
    return plan, store.append(batch)


def _result_of(plan: Plan, item: Envelope, done: store.Appended) -> Result:
    return plan.results[item.command_id](done)
