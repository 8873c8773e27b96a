"""This process's command bus, and the wake-up of the relay after an append."""

import logging
import threading
import time

from celery import current_app
from django.conf import settings
from django.core.cache import caches

from ledger.bus import CommandBus

log = logging.getLogger(__name__)

WAKE_EVERY_SECONDS = 0.02
"""Appends closer together than this share one wake-up of the relay."""


def relay_awake_key() -> str:
    """The cache key that a relay at work keeps: it needs no wake-up.

    It looks at the log once more after giving the key up; one that is killed loses it to a timeout,
    and beat wakes the next.
    """
    return f"relay-awake:{settings.LEDGER_TOPIC}"


class _Waker:
    """Sends a coalesced wake-up to the relay; losing one is harmless, beat sends the next."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._started = False
        self._lock = threading.Lock()

    def wake(self, _position: int) -> None:
        """Ask for a wake-up soon; never blocks and never fails."""
        with self._lock:
            if not self._started:
                threading.Thread(target=self._run, name="relay-waker", daemon=True).start()
                self._started = True
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                if caches["redis"].get(relay_awake_key()) is None:
                    current_app.send_task("projections.relay", expires=5)
            except Exception as error:  # noqa: BLE001  (the broker is away: beat is the net)
                log.warning("the relay could not be woken: %s", error)
                time.sleep(1)
            time.sleep(WAKE_EVERY_SECONDS)


bus = CommandBus(on_append=_Waker().wake)
