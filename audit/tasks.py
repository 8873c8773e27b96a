"""Celery's part of sealing and verifying."""

import logging
from typing import Any

from celery import current_app, shared_task

from audit import checker, seals

log = logging.getLogger(__name__)

CHECK_BUDGET_SECONDS = 0.25
"""Of every five seconds: a twentieth of a core, three thousand events a second."""


@shared_task(name="audit.seal")
def seal(**_: Any) -> None:
    """Seal what is new, and see that the outside has the newest seal: the witness, and Kafka."""
    try:
        newest = seals.seal()
    except seals.SealRefusedError:
        log.exception("the log is not sealed")
        return
    seals.witness()
    if newest is not None:
        current_app.send_task(
            "projections.publish_seal",
            kwargs={"size": newest.size, "note": newest.note},
            expires=5,
        )


@shared_task(name="audit.check")
def check(**_: Any) -> None:
    """A slice of the continuous verification."""
    checker.work(budget_seconds=CHECK_BUDGET_SECONDS)
