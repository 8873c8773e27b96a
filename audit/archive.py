"""The whole log as one file, and back: every row of every log with its hash, and the seals over them.

gzip of JSON Lines. First ``{"format", "ends"}``, how many entries each log has; then one row a line,
``{"events": row}``, ``{"commands": row}`` and ``{"reads": row}``, in order, each seal
(``{"seal": row}``) right after the entry that it ends with. The same log gives the same bytes.

Derived tables are not in it: heads, snapshots and the tree's kept nodes are made anew.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from django.core.management import call_command
from django.db import DatabaseError, transaction

from audit import checks, seals
from audit.models import Seal
from ledger import codec, store
from ledger.store import LOGS, Log

FORMAT = "ledger-log/1"
Progress = Callable[[int, int], None]


class ArchiveError(Exception):
    """A file that is no whole archive, or a database that may not take it; the message says why."""


class _Header(msgspec.Struct, frozen=True):
    format: str
    ends: dict[Log, int]


class _SealRow(msgspec.Struct, frozen=True):
    log: str
    size: int
    root: str
    note: str
    sealed_at: str


class _Caused(msgspec.Struct, frozen=True):
    """As much of an event as says which command it belongs to."""

    class _Metadata(msgspec.Struct, frozen=True):
        command_id: str

    metadata: _Metadata


_lines = msgspec.json.Decoder(dict[str, msgspec.Raw])
_caused = msgspec.json.Decoder(_Caused)


def export(path: Path, *, progress: Progress = lambda _done, _total: None) -> dict[Log, int]:
    """Write everything there is now to `path`; how many entries of each log that was."""
    ends = store.ends()
    done, total = 0, sum(ends.values())
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(codec.canonical({"format": FORMAT, "ends": ends}) + b"\n")
        for log in LOGS:
            for first in range(1, ends[log] + 1, store.PAGE):
                last = min(first + store.PAGE - 1, ends[log])
                sealed = {item.size: item for item in _seals_between(log, first, last)}
                for number, row in enumerate(store.rows_as_json(log, first, last), first):
                    file.write(f'{{"{log}":{row}}}\n'.encode())
                    if number in sealed:
                        file.write(codec.canonical({"seal": _seal_row(sealed[number])}) + b"\n")
                done += last - first + 1
                progress(done, total)
    return ends


def _seals_between(log: Log, first: int, last: int) -> Iterator[Seal]:
    return Seal.objects.filter(log=log, size__gte=first, size__lte=last).iterator()


def _seal_row(seal: Seal) -> _SealRow:
    return _SealRow(
        log=seal.log,
        size=seal.size,
        root=bytes(seal.root).hex(),
        note=seal.note,
        sealed_at=codec.format_time(seal.sealed_at),
    )


def restore(path: Path, *, progress: Progress = lambda _done, _total: None) -> checks.Report:
    """Write an archive into an empty database, with every number, time and hash as it was.

    Then all of it is verified, against the seals in the file and those of the witness; with any
    finding nothing stays written. The connection must be the owner's.

    Raises:
        ArchiveError: the log is not empty; the file is damaged, incomplete or of another format.
    """
    with store.log_lock():
        if any(store.ends().values()):
            raise ArchiveError("the log is not empty: an archive goes into an empty one only")
        try:
            header = _read_into_log(path, progress)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise ArchiveError(f"{path.name} cannot be read: {error}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise ArchiveError(f"{path.name} is no archive of a log: {error}") from error
        except DatabaseError as error:
            raise ArchiveError(f"the database refused it: {str(error).splitlines()[0]}") from error
        for log, end in store.ends().items():
            if end != header.ends.get(log):
                raise ArchiveError(f"{path.name} ends early: {end} {log} of {header.ends.get(log)}")
        call_command("rebuild_state", stdout=io.StringIO())
        report = checks.check_log(witness=seals.witnessed_in(seals.witness_folder()))
        report.take(checks.check_accounts())
        transaction.set_rollback(report.findings_total > 0)
        return report


def _read_into_log(path: Path, progress: Progress) -> _Header:
    with gzip.open(path, "rb") as file:
        header = msgspec.json.decode(file.readline(), type=_Header)
        if header.format != FORMAT:
            raise ValueError(f"its format is {header.format!r}, this software reads {FORMAT!r}")
        total, done = sum(header.ends.values()), 0
        for log, rows in _batches(file):
            if log == "seal":
                Seal.objects.bulk_create(_seal(row) for row in rows)
            elif log in LOGS:
                store.insert_rows(log, "[" + ",".join(row.decode() for row in rows) + "]")
                done += len(rows)
                progress(done, total)
            else:
                raise ValueError(f"{log!r} is none of {', '.join(LOGS)}, seal")
    return header


def _batches(file: Any) -> Iterator[tuple[str, list[bytes]]]:
    """Rows of one kind at a time, at most about store.PAGE; the events of a command stay together.

    The database checks that a transfer has both legs once per statement.
    """
    waiting: dict[str, list[bytes]] = {}
    command = ""
    for line in file:
        [(kind, raw)] = _lines.decode(line).items()
        row = bytes(raw)
        caused_by = _caused.decode(row).metadata.command_id if kind == "events" else ""
        rows = waiting.setdefault(kind, [])
        if len(rows) >= store.PAGE and (not caused_by or caused_by != command):
            yield kind, waiting.pop(kind)
            rows = waiting.setdefault(kind, [])
        command = caused_by or command
        rows.append(row)
    yield from waiting.items()


def _seal(row: bytes) -> Seal:
    found = msgspec.json.decode(row, type=_SealRow)
    return Seal(
        log=found.log,
        size=found.size,
        root=bytes.fromhex(found.root),
        note=found.note,
        sealed_at=codec.parse_stored_time(found.sealed_at),
    )
