"""Run one projector until SIGTERM or Ctrl-C."""

import signal
from typing import Any

from django.core.management.base import BaseCommand

from projections.projector import Projector, StopFlag


class Command(BaseCommand):
    """Keeps Redis up to date with the log."""

    help = "Keep the projections in Redis up to date, until stopped."

    def handle(self, *_: Any, **__: Any) -> None:
        """Loop; a signal stops it after the batch at hand."""
        stop = StopFlag()
        signal.signal(signal.SIGTERM, stop.set)
        signal.signal(signal.SIGINT, stop.set)
        Projector().run(stop)
