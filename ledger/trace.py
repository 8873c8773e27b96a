"""The way of an event in the logs, when LEDGER_TRACE is on: committed, relayed, projected.

Each line names the correlation id that the request was answered with, so one search shows the way
from the request to the projections. Off by default: a line per event costs more than the event.
"""

import logging
from collections.abc import Iterable

from django.conf import settings

from ledger.codec import RecordedEvent

log = logging.getLogger(__name__)


def trace(step: str, events: Iterable[RecordedEvent]) -> None:
    """Say that `events` have come so far."""
    if not settings.LEDGER_TRACE:
        return
    for event in events:
        log.info(
            step,
            extra={
                "position": event.position,
                "account_id": event.account_id,
                "type": event.type,
                "command_id": event.metadata.command_id,
                "correlation_id": event.metadata.correlation_id,
            },
        )
