"""Loaded by every process under chaos: kills it at a named step, once, when the runner has armed it.

The runner writes ``module|attribute|before or after|calls`` into the file ``armed``. Whoever is the
first to come that far renames the file and dies by SIGKILL: no goodbye, no flush.
"""

import importlib.machinery
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["CHAOS_FOLDER"])
ARMED = FOLDER / "armed"
TARGETS: dict[str, set[str]] = {}
for line in (FOLDER / "steps").read_text().splitlines():
    target, attribute, _ = line.split("|")
    TARGETS.setdefault(target, set()).add(attribute)
calls: Counter[str] = Counter()


def reached(step: str) -> None:
    try:
        text = ARMED.read_text()
    except OSError:
        return
    wanted, _, times = text.rpartition("|")
    if wanted != step:
        return
    calls[text] += 1
    if calls[text] < int(times):
        return
    try:
        ARMED.rename(FOLDER / f"fired-{os.getpid()}")
    except OSError:
        return  # another process was first
    os.kill(os.getpid(), signal.SIGKILL)


def poisoned(arguments: tuple[Any, ...]) -> None:
    """Fail as a fold with a bug does, for the account that the file ``poison`` names."""
    try:
        account = (FOLDER / "poison").read_text()
    except OSError:
        return
    if arguments and getattr(arguments[0], "account_id", None) == account:
        raise ValueError("poisoned by the chaos suite")


def wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def under_chaos(*args: Any, **kwargs: Any) -> Any:
        poisoned(args)
        reached(f"{name}|before")
        found = function(*args, **kwargs)
        reached(f"{name}|after")
        return found

    return under_chaos


class Loader:
    """Loads a module as always, and then puts the steps into it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: Any) -> Any:
        return self.real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self.real.exec_module(module)
        for path in TARGETS[module.__name__]:
            holder = module
            *parts, name = path.split(".")
            for part in parts:
                holder = getattr(holder, part)
            setattr(holder, name, wrapped(getattr(holder, name), f"{module.__name__}|{path}"))


class Finder:
    """Finds the modules that have steps."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name not in TARGETS:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder)
