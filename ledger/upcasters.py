"""Pure steps from the stored payload of schema version n to n + 1, and their chain.

Register a step with ``@upcaster("MoneyDeposited", 1)``. A step takes and returns plain JSON values
and reads nothing else: no settings, clock or other events. Stored events are never rewritten.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ledger.domain.events import EVENT_TYPES

Payload = dict[str, Any]
Step = Callable[[Payload], Payload]

UPCASTERS: dict[tuple[str, int], Step] = {}


def upcaster(event_type: str, from_version: int) -> Callable[[Step], Step]:
    """Register the step of `event_type` from schema version `from_version` to the next.

    Raises:
        ValueError: the step exists already.
    """

    def register(step: Step) -> Step:
        if (event_type, from_version) in UPCASTERS:
            raise ValueError(f"two upcasters for {event_type} version {from_version}")
        UPCASTERS[event_type, from_version] = step
        return step

    return register


def upcast(event_type: str, schema_version: int, payload: Payload) -> list[Payload]:
    """Return the payload as stored and after each step, the newest last."""
    steps = [payload]
    for version in range(schema_version, EVENT_TYPES[event_type].schema_version):
        steps.append(UPCASTERS[event_type, version](steps[-1]))
    return steps


def find_gaps(
    current: Mapping[str, int], steps: Mapping[tuple[str, int], Step] | None = None
) -> list[str]:
    """What is wrong with the chain, one sentence each; `current` maps event type to version."""
    known = UPCASTERS if steps is None else steps
    problems = [
        f"{event_type}: no upcaster from schema version {version} to {version + 1}"
        for event_type, newest in current.items()
        for version in range(1, newest)
        if (event_type, version) not in known
    ]
    problems += [
        f"{event_type}: upcaster from schema version {version} leads past the current version"
        for event_type, version in known
        if event_type not in current or version >= current[event_type]
    ]
    return sorted(problems)


@upcaster("BalanceAdjusted", 1)
def _names_no_transaction(payload: Payload) -> Payload:
    """Version 2 has `corrects`; until then an adjustment named no transaction."""
    return {**payload, "corrects": ""}


@upcaster("HoldCaptured", 1)
def _keeps_the_rest(payload: Payload) -> Payload:
    """Version 2 has `final`; until then a capture always left the rest held."""
    return {**payload, "final": False}


@upcaster("OverdraftLimitSet", 1)
def _limit_has_one_name(payload: Payload) -> Payload:
    """Version 2 says `overdraft_limit`, as AccountOpened and the state do."""
    return {"overdraft_limit": payload["limit"]}
