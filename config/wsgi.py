"""The WSGI entry point."""

import gc
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from django.core.cache import close_caches
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import reset_queries

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
_django = get_wsgi_application()

# Work before and after every request that is for nothing here: queries are not recorded, and the
# cache keeps its connections.
request_started.disconnect(reset_queries)
request_finished.disconnect(close_caches)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Django's answer, whole where it is whole.

    The server sends a list at once; any other iterable it fetches piece by piece from another
    thread, which costs every small answer two more hand-overs of the interpreter.
    """
    response: Any = _django(environ, start_response)
    if getattr(response, "streaming", True):
        return response  # type: ignore[no-any-return]  # a file, sent in pieces
    try:
        return [response.content]
    finally:
        response.close()


# What is loaded stays: the collector need not walk it again for every few hundred new objects.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 50)


def _pin_to_one_cpu() -> None:
    """Keep this worker process on one CPU, each on its own as far as there are enough.

    One thread of a process runs at a time, whichever holds the interpreter. Left to itself the
    kernel wakes the next one on another CPU, with cold caches: a request then costs a quarter more
    (docs/performance.md).
    """
    cpus = sorted(os.sched_getaffinity(0))
    parent = os.getppid()
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    siblings = [int(pid) for pid in text.split() if int(pid) != os.getpid()]
    taken: set[int] = set()
    for pid in siblings:
        try:
            theirs = os.sched_getaffinity(pid)
        except ProcessLookupError:
            continue
        taken |= theirs if len(theirs) == 1 else set()
    free = [cpu for cpu in cpus if cpu not in taken] or cpus
    older = sum(pid < os.getpid() for pid in siblings)
    os.sched_setaffinity(0, {free[older % len(free)]})


if os.environ.get("LEDGER_PIN_WORKERS") == "1":
    _pin_to_one_cpu()
