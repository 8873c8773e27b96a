"""The Celery application: relay, rebuild, imports and sweeps."""

import os
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("ledger")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


class SteadyScheduler(PersistentScheduler):
    """Goes on when the clock is set back; Celery's own waits until it is again where it was."""

    def tick(self, *args: Any, **options: Any) -> float:
        """What ran in the future counts as run now."""
        now = self.app.now()
        ahead = [
            entry
            for entry in self.schedule.values()
            if entry.last_run_at is not None and entry.last_run_at > now
        ]
        for entry in ahead:
            entry.last_run_at = now
        if ahead:
            self._heap = None
        seconds: float = super().tick(*args, **options)
        return seconds
