"""Celery's part of sealing and verifying."""

import logging
from typing import Any

from celery import current_app, shared_task

from audit import checker, replays, seals
from ledger.store import LOGS

log = logging.getLogger(__name__)

CHECK_BUDGET_SECONDS = 0.25
"""Of every five seconds: a twentieth of a core, three thousand events a second."""


@shared_task(name="audit.seal")
def seal(**_: Any) -> None:
    """Seal what is new, and see that the outside has the newest seals: the witness, and Kafka."""
    newest = []
    for log_name in LOGS:
        try:
            newest.append(seals.seal(log_name))
        except seals.SealRefusedError:
            log.exception("the log of %s is not sealed", log_name)
    seals.witness()
    for found in filter(None, newest):
        current_app.send_task(
            "projections.publish_seal",
            kwargs={"log_name": found.log, "size": found.size, "note": found.note},
            expires=5,
        )


@shared_task(name="audit.check")
def check(**_: Any) -> None:
    """A slice of the continuous verification."""
    checker.work(budget_seconds=CHECK_BUDGET_SECONDS)


@shared_task(name="audit.replay")
def replay(*, replay_id: int, **_: Any) -> None:
    """Fold the log and compare."""
    replays.run(replay_id)


@shared_task(name="audit.swap")
def swap(*, replay_id: int, **_: Any) -> None:
    """Make anew what older code made."""
    replays.run_swap(replay_id)
