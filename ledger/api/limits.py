"""How many requests a sender may make: a token bucket per user or, without one, per address.

Kept in the memory of each web process, so it costs microseconds and needs no other service; a sender
that is spread over N processes gets up to N times as much. Told to clients by the header fields of
draft-ietf-httpapi-ratelimit-headers: ``RateLimit-Policy`` and ``RateLimit``.
"""

import threading
import time
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from ledger.roles import actions_of

KEPT_MAX = 50_000
BURST_SECONDS = 2
"""So many seconds' worth may come at once."""
WINDOW_SECONDS = 1


class _Buckets:
    """What is left of each sender's allowance, and when that was."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, sender: str, rate: int) -> float:
        """Take one; what is left, below zero if there was none."""
        most, now = rate * BURST_SECONDS, time.monotonic()
        with self._lock:
            left, since = self._left.get(sender, (most, now))
            left = min(most, left + (now - since) * rate)
            if left >= 1:
                left -= 1
                self._left[sender] = (left, now)
                self._forget()
                return left
            self._left[sender] = (left, now)
            return left - 1

    def _forget(self) -> None:
        if len(self._left) > KEPT_MAX:  # who comes back begins with a full bucket
            self._left.clear()


buckets = _Buckets()


def rate_of(request: Request) -> tuple[str, int]:
    """Who asks, and how many requests a second they have; 0 for as many as they like."""
    user: Any = request.user
    if not user.is_authenticated:
        return f"ip:{request.META.get('REMOTE_ADDR', '')}", settings.LEDGER_RATES["anonymous"]
    actions = actions_of(user)
    kind = "staff" if "staff" in actions else "service" if "read" in actions else "customer"
    return f"user:{user.pk}", settings.LEDGER_RATES[kind]


class RateLimit(BaseThrottle):
    """Refuses with 429 and ``Retry-After``; every answer of a limited sender says what is left."""

    wait_seconds = 0.0

    def allow_request(self, request: Request, view: Any) -> bool:
        """Whether there was an allowance left."""
        del view
        sender, rate = rate_of(request)
        if not rate:
            return True
        left = buckets.take(sender, rate)
        self.wait_seconds = max(0.0, -left / rate)
        whole = max(0, int(left))
        fields = {
            "RateLimit-Policy": f'"default";q={rate * BURST_SECONDS};w={BURST_SECONDS}',
            "RateLimit": f'"default";r={whole};t={WINDOW_SECONDS}',
        }
        request._request.rate_limit_fields = fields  # type: ignore[attr-defined]  # noqa: SLF001
        return left >= 0

    def wait(self) -> float:
        """Seconds until the next one is allowed."""
        return self.wait_seconds
