"""Proofs for outsiders: this event is in the log, and today's log extends an earlier one.

Everything here is JSON that ``audit/verify.py`` checks with nothing but the public key.
"""

import base64
from typing import Any

import msgspec

from audit import merkle, notes, seals, verify
from audit.models import Seal
from ledger import codec
from ledger.codec import RecordedEvent
from ledger.errors import BusyError, NotFoundError

RECEIPT_FORMAT = "ledger-receipt/1"


def newest_seal() -> Seal:
    """The newest seal.

    Raises:
        NotFoundError: nothing was sealed yet.
    """
    found = seals.newest()
    if found is None:
        raise NotFoundError("nothing is sealed yet")
    return found


def seal_of(size: int | None) -> Seal:
    """The seal of exactly `size` events, the newest without one.

    Raises:
        NotFoundError: there is none of that size.
    """
    if size is None:
        return newest_seal()
    found = Seal.objects.filter(log="events", size=size).first()
    if found is None:
        raise NotFoundError(f"there is no seal of {size} events")
    return found


def seal_as_json(seal: Seal) -> dict[str, Any]:
    """A seal for the outside."""
    return {
        "size": seal.size,
        "root": base64.b64encode(bytes(seal.root)).decode(),
        "note": seal.note,
        "sealed_at": codec.format_time(seal.sealed_at),
        "public_keys": seals.public_keys(),
    }


def consistency(earlier: Seal, later: Seal) -> dict[str, Any]:
    """Both seals and the proof that `later` extends `earlier`."""
    path = merkle.consistency_proof(seals.StoredTree(), earlier.size, later.size)
    return {
        "format": "ledger-consistency/1",
        "earlier": earlier.note,
        "later": later.note,
        "proof": _as_text(path),
        "public_keys": seals.public_keys(),
    }


def receipt(command_id: str, events: list[RecordedEvent]) -> dict[str, Any]:
    """The events of an accepted command, each with its proof against the newest seal.

    Raises:
        BusyError: they are not sealed yet; a few seconds later they are.
        NotFoundError: nothing is ever sealed here.
    """
    seal = newest_seal()
    last = max(event.position for event in events)
    if seal.size < last:
        raise BusyError(f"position {last} is not sealed yet: ask again in a few seconds")
    tree = seals.StoredTree()
    return {
        "format": RECEIPT_FORMAT,
        "command_id": command_id,
        "events": [
            included(event, merkle.inclusion_proof(tree, event.position - 1, seal.size))
            for event in events
        ],
        "seal": seal.note,
        "public_keys": seals.public_keys(),
    }


def included(event: RecordedEvent, path: list[bytes]) -> dict[str, Any]:
    """An event with its proof, as `verify.check_included` takes it."""
    return {
        "position": event.position,
        "recorded_at": codec.format_time(event.recorded_at),
        "content": codec.content_of(event).decode(),
        "proof": _as_text(path),
    }


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """What the timeline says of an event's proof, worked out for this request."""

    seal: Seal
    holds: bool
    steps: int


def prove(event: RecordedEvent) -> Proven | None:
    """Whether the event, as it is stored now, is under the newest seal; None if nothing covers it yet.

    Checked by the verifier that outsiders use.

    Raises:
        TreeIncompleteError: a kept node is missing.
    """
    seal = seals.newest()
    if seal is None or seal.size < event.position:
        return None
    path = merkle.inclusion_proof(seals.StoredTree(), event.position - 1, seal.size)
    try:
        said = notes.verify(seal.note, seals.public_keys())
        verify.check_included(included(event, path), said.size, said.root)
    except (notes.NoteError, verify.Wrong):
        return Proven(seal=seal, holds=False, steps=len(path))
    return Proven(seal=seal, holds=said.size == seal.size, steps=len(path))


def _as_text(path: list[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in path]
