"""Seals: the Merkle tree over the log, its signed heads, and the witness that keeps a copy.

A seal is signed only if the tree as it is today still has the root that the last seal had: a log
that was changed meanwhile is not sealed but reported.
"""

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec
from django.conf import settings
from django.db.models import Max
from django.db.models.functions import Now

from audit import merkle, notes
from audit.models import Node, Seal
from ledger import store

log = logging.getLogger(__name__)

LOCK = 7021996118260
"""The advisory lock of whoever extends the tree."""
TILES_AT_ONCE = 64
KEY_OF_LEVEL = 2**48
WITNESS_TIMEOUT_SECONDS = 5


class SealRefusedError(Exception):
    """The log is not what was sealed before; the message says where they part."""


class TreeIncompleteError(Exception):
    """A kept node is missing: nothing can be proven until the tree is made anew."""


class StoredTree:
    """The `merkle.Reader` over leaf hashes of events and kept nodes."""

    def hashes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """See `merkle.Reader`.

        Raises:
            TreeIncompleteError: one of them is not there.
        """
        if level == 0:
            found = store.leaf_hashes(start + 1, stop)
        else:
            first = level * KEY_OF_LEVEL
            rows = Node.objects.filter(key__gte=first + start, key__lt=first + stop)
            found = [bytes(item) for item in rows.order_by("key").values_list("hash", flat=True)]
        if len(found) != stop - start:
            raise TreeIncompleteError(f"level {level} lacks a hash between {start} and {stop}")
        return found


def extend(end: int) -> None:
    """Keep the nodes of every subtree that is complete in the first `end` events."""
    tree = StoredTree()
    level, complete = 1, end // merkle.TILE
    while complete:
        first = level * KEY_OF_LEVEL
        kept = Node.objects.filter(key__gte=first, key__lt=first + KEY_OF_LEVEL)
        last = kept.aggregate(last=Max("key"))["last"]  # by the key's index, however many there are
        for start in range(0 if last is None else last - first + 1, complete, TILES_AT_ONCE):
            stop = min(start + TILES_AT_ONCE, complete)
            below = tree.hashes(level - 1, start * merkle.TILE, stop * merkle.TILE)
            Node.objects.bulk_create(
                Node(
                    key=first + index,
                    level=level,
                    index=index,
                    hash=merkle.fold(below[at : at + merkle.TILE]),
                )
                for at, index in zip(
                    range(0, len(below), merkle.TILE), range(start, stop), strict=True
                )
            )
        level, complete = level + 1, complete // merkle.TILE


def signers() -> list[notes.Signer]:
    """The keys of the settings; during a rotation the old one and the new one.

    Raises:
        notes.NoteError: a file holds no key.
        OSError: a file cannot be read.
    """
    return [
        notes.Signer(Path(path).read_text(encoding="utf-8")) for path in settings.LEDGER_SEAL_KEYS
    ]


def public_keys() -> list[str]:
    """The public texts of `signers`, and of keys retired since, that older seals need."""
    return [signer.public_text for signer in signers()] + list(settings.LEDGER_SEAL_OLD_KEYS)


def seal() -> Seal | None:
    """Seal the log up to its end; the newest seal, or None where nothing can be or need be sealed.

    Raises:
        SealRefusedError: the log is behind the last seal, or no longer what it sealed.
    """
    keys = signers()
    if not keys:
        return None
    with store.single_flight(LOCK) as got:
        newest = Seal.objects.first()
        end = store.last_position()
        if not got or end == 0 or (newest is not None and newest.size == end):
            return newest
        if newest is not None and newest.size > end:
            raise SealRefusedError(
                f"position {newest.size} was sealed but the log ends at {end}: the database was "
                "restored to an earlier state; see docs/operations.md, restore"
            )
        extend(end)
        tree = StoredTree()
        if newest is not None and merkle.root(tree, newest.size) != bytes(newest.root):
            raise SealRefusedError(
                f"the first {newest.size} events no longer have the root that was sealed: "
                "manage.py verify names the first that differs"
            )
        root = merkle.root(tree, end)
        checkpoint = notes.Checkpoint(origin=keys[0].name, size=end, root=root)
        note = notes.sign(checkpoint, keys)
        return Seal.objects.create(size=end, root=root, note=note, sealed_at=Now())


# -- the witness ---------------------------------------------------------------------------------


class Witnessed(msgspec.Struct, frozen=True):
    """One line of a witness's file."""

    size: int
    note: str


def witness() -> None:
    """Hand the witness what it has not got: a directory gets every seal, a URL the newest.

    An unreachable witness is logged; the next call tries again.
    """
    where = settings.LEDGER_WITNESS
    newest = Seal.objects.first()
    if not where or newest is None:
        return
    try:
        if where.startswith(("http://", "https://")):
            _post(where, newest.note)
        else:
            _append(Path(where))
    except (OSError, urllib.error.URLError) as error:
        log.warning("the witness %s did not take the seal of %d: %s", where, newest.size, error)


def _append(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seals.jsonl"
    known = max((item.size for item in read_witness(path, tail=TAIL_BYTES)), default=0)
    missing = Seal.objects.filter(size__gt=known).order_by("size")
    with path.open("a", encoding="utf-8") as file:
        for item in missing.iterator():
            file.write(json.dumps({"size": item.size, "note": item.note}) + "\n")
        file.flush()
        os.fsync(file.fileno())


TAIL_BYTES = 64 * 1024


def read_witness(path: Path, *, tail: int = 0) -> list[Witnessed]:
    """The seals in a witness's file, or in its last `tail` bytes; a line that is cut is left out."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        if tail:
            file.seek(max(0, path.stat().st_size - tail))
        content = file.read()
    found = []
    for line in content.split(b"\n"):
        try:
            found.append(msgspec.json.decode(line, type=Witnessed))
        except msgspec.MsgspecError:
            continue
    return found


_posted: dict[str, str] = {}


def _post(url: str, note: str) -> None:
    if _posted.get(url) == note:
        return
    request = urllib.request.Request(  # noqa: S310  (http or https, checked by the caller)
        url, note.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    )
    with urllib.request.urlopen(request, timeout=WITNESS_TIMEOUT_SECONDS):  # noqa: S310
        _posted[url] = note
