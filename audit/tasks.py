"""Celery's part of sealing."""

import logging
from typing import Any

from celery import current_app, shared_task

from audit import seals

log = logging.getLogger(__name__)


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
