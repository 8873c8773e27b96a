"""Server-sent events (WHATWG HTML, section 9.2): a response that goes on while something is new.

A stream holds a thread of its process for as long as it lasts, so there is a bound, each ends by
itself after a while, and browsers take it up again where they were (``Last-Event-ID``).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from django.db import DatabaseError, connection
from django.http import HttpResponseBase, StreamingHttpResponse

from ledger.errors import BusyError

STREAMS_MAX = 16
"""Streams of one process at the same time, of its 32 threads."""
LOOK_SECONDS = 0.25
LIFE_SECONDS = 55.0
QUIET_SECONDS = 15.0
"""After so long without news a comment shows both ends that the other is there."""

_slots = threading.BoundedSemaphore(STREAMS_MAX)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. `identity` is where a reader goes on after it."""

    event: str
    data: Any
    identity: str = ""

    def encoded(self) -> bytes:
        """As it goes over the wire; JSON has no line break in it."""
        first = f"id: {self.identity}\n" if self.identity else ""
        return (
            f"{first}event: {self.event}\ndata: ".encode()
            + msgspec.json.encode(self.data)
            + b"\n\n"
        )


class _Stream:
    """Asks `look` for messages until its life is over. Whoever holds it must close it."""

    def __init__(self, look: Callable[[], Sequence[Message]]) -> None:
        self._look = look
        self._end = time.monotonic() + LIFE_SECONDS
        self._is_open = True
        self._started = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._started:
            self._started = True
            return b"retry: 1000\n\n"
        quiet = time.monotonic() + QUIET_SECONDS
        while self._is_open and (now := time.monotonic()) < self._end:
            try:
                messages = self._look()
            except DatabaseError:
                connection.close()
                break
            if messages:
                return b"".join(message.encoded() for message in messages)
            if now > quiet:
                return b": still here\n\n"
            time.sleep(LOOK_SECONDS)
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Give the place back; once."""
        if self._is_open:
            self._is_open = False
            _slots.release()


def respond(look: Callable[[], Sequence[Message]]) -> HttpResponseBase:
    """A stream of what `look` finds.

    Raises:
        BusyError: the process has as many as it can bear.
    """
    if not _slots.acquire(blocking=False):
        raise BusyError("too many streams are open here: ask again in a few seconds")
    return StreamingHttpResponse(
        _Stream(look),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
