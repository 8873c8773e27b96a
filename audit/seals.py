"""Seals: the Merkle trees over the logs, their signed heads, and the witness that keeps a copy.

Three logs have a tree each: the events, the records of commands (refusals included), and who looked
at what. Their notes name them by origin: the key's name for events, with ``/commands`` or ``/reads``
for the others. A seal is signed only if the tree as it is today still has the root of the last seal,
and of the last one that the witness has: a log that was changed meanwhile, or restored to an earlier
state, is not sealed but reported.
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
from ledger.store import LOGS, Log

log = logging.getLogger(__name__)

TILES_AT_ONCE = 64
KEY_OF_LEVEL = 2**48
KEY_OF_LOG = 2**56
WITNESS_TIMEOUT_SECONDS = 5


class SealRefusedError(Exception):
    """The log is not what was sealed before; the message says where they part."""


class TreeIncompleteError(Exception):
    """A kept node is missing: nothing can be proven until the tree is made anew."""


def node_key(log: Log, level: int, index: int = 0) -> int:
    """The key of a kept node; in order of index within a level of a log."""
    return LOGS.index(log) * KEY_OF_LOG + level * KEY_OF_LEVEL + index


def origin_of(log: Log, name: str, epoch: int) -> str:
    """What the notes of a log call it, `name` being that of the key.

    After a restore that lost events another epoch begins: an origin never has two histories.
    """
    named = name if epoch == 1 else f"{name}/epoch-{epoch}"
    return named if log == "events" else f"{named}/{log}"


def newest(log: Log = "events") -> Seal | None:
    """The newest seal of a log."""
    return Seal.objects.filter(log=log).order_by("-size").first()


class StoredTree:
    """The `merkle.Reader` over a log's leaf hashes and kept nodes."""

    def __init__(self, log: Log = "events") -> None:
        self.log = log

    def hashes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """See `merkle.Reader`.

        Raises:
            TreeIncompleteError: one of them is not there.
        """
        if level == 0:
            found = store.leaf_hashes(self.log, start + 1, stop)
        else:
            first = node_key(self.log, level)
            rows = Node.objects.filter(key__gte=first + start, key__lt=first + stop)
            found = [bytes(item) for item in rows.order_by("key").values_list("hash", flat=True)]
        if len(found) != stop - start:
            raise TreeIncompleteError(f"level {level} lacks a hash between {start} and {stop}")
        return found


def extend(log: Log, end: int) -> None:
    """Keep the nodes of every subtree that is complete in the first `end` entries."""
    tree = StoredTree(log)
    level, complete = 1, end // merkle.TILE
    while complete:
        first = node_key(log, level)
        kept = Node.objects.filter(key__gte=first, key__lt=first + KEY_OF_LEVEL)
        last = kept.aggregate(last=Max("key"))["last"]  # by the key's index, however many there are
        for start in range(0 if last is None else last - first + 1, complete, TILES_AT_ONCE):
            stop = min(start + TILES_AT_ONCE, complete)
            below = tree.hashes(level - 1, start * merkle.TILE, stop * merkle.TILE)
            Node.objects.bulk_create(
                Node(key=first + index, hash=merkle.fold(below[at : at + merkle.TILE]))
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
    """Those of the settings, and of `signers` where this process may read the private keys."""
    own = [signer.public_text for signer in signers()]
    return own + [text for text in settings.LEDGER_SEAL_PUBLIC_KEYS if text not in own]


def seal(log: Log = "events") -> Seal | None:
    """Seal a log up to its end; the newest seal, or None where nothing can be or need be sealed.

    Raises:
        SealRefusedError: the log is behind the last seal, or no longer what it sealed.
    """
    keys = signers()
    if not keys:
        return None
    with store.single_flight(store.Lock.SEALS) as got:
        last = newest(log)
        end = store.end_of(log)
        if not got or end == 0 or (last is not None and last.size == end):
            return last
        before = [(last.size, bytes(last.root))] if last is not None else []
        if (witnessed := last_witnessed(log)) is not None:
            before.append((witnessed.size, witnessed.root))
        for size, _ in before:
            if size > end:
                raise SealRefusedError(
                    f"{size} {log} were sealed but the log ends at {end}: the database was "
                    "restored to an earlier state; see docs/operations.md, restore"
                )
        extend(log, end)
        tree = StoredTree(log)
        for size, root in dict.fromkeys(before):
            if merkle.root(tree, size) != root:
                raise SealRefusedError(
                    f"the first {size} {log} no longer have the root that was sealed: "
                    "manage.py verify names the first that differs"
                )
        root = merkle.root(tree, end)
        origin = origin_of(log, keys[0].name, settings.LEDGER_EPOCH)
        checkpoint = notes.Checkpoint(origin=origin, size=end, root=root)
        note = notes.sign(checkpoint, keys)
        return Seal.objects.create(log=log, size=end, root=root, note=note, sealed_at=Now())


# -- the witness ---------------------------------------------------------------------------------


class Witnessed(msgspec.Struct, frozen=True):
    """One line of a witness's file."""

    size: int
    note: str


def witness_folder() -> Path | None:
    """The witness's directory, if it is one."""
    where = settings.LEDGER_WITNESS
    return Path(where) if where and not where.startswith(("http://", "https://")) else None


def witness() -> None:
    """Hand the witness what it has not got: a directory gets every seal, a URL the newest ones.

    An unreachable witness is logged; the next call tries again.
    """
    where, folder = settings.LEDGER_WITNESS, witness_folder()
    if not where:
        return
    for log_name in LOGS:
        last = newest(log_name)
        if last is None:
            continue
        try:
            if folder is None:
                _post(where, last)
            else:
                _append(folder, log_name)
        except (OSError, urllib.error.URLError) as error:
            log.warning("the witness %s did not take the %s: %s", where, last, error)


def witness_file(folder: Path, log_name: Log = "events") -> Path:
    """Where a witness's directory keeps the seals of a log, one a line."""
    name = "seals" if log_name == "events" else f"seals-{log_name}"
    epoch = settings.LEDGER_EPOCH
    return folder / (f"{name}.jsonl" if epoch == 1 else f"{name}.epoch-{epoch}.jsonl")


def last_witnessed(log_name: Log) -> notes.Checkpoint | None:
    """What the newest seal in the witness's directory says, if there is one that can be read."""
    folder = witness_folder()
    if folder is None:
        return None
    try:
        known = read_witness(witness_file(folder, log_name), tail=TAIL_BYTES)
        if not known:
            return None
        return notes.verify(max(known, key=lambda item: item.size).note, public_keys())
    except (OSError, notes.NoteError) as error:
        log.warning("the witness %s cannot be read: %s", folder, error)
        return None


def _append(folder: Path, log_name: Log) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = witness_file(folder, log_name)
    known = max((item.size for item in read_witness(path, tail=TAIL_BYTES)), default=0)
    missing = Seal.objects.filter(log=log_name, size__gt=known).order_by("size")
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


def witnessed_in(folder: Path | None) -> dict[Log, list[Witnessed]]:
    """All that a witness's directory has, by log."""
    return {log_name: read_witness(witness_file(folder, log_name)) for log_name in LOGS if folder}


_posted: dict[tuple[str, str], str] = {}


def _post(url: str, last: Seal) -> None:
    if _posted.get((url, last.log)) == last.note:
        return
    request = urllib.request.Request(  # noqa: S310  (http or https, checked by the caller)
        url, last.note.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    )
    with urllib.request.urlopen(request, timeout=WITNESS_TIMEOUT_SECONDS):  # noqa: S310
        _posted[url, last.log] = last.note
