"""Evidence bundles: a zip that proves part of the log to somebody who has nothing else of ours.

An account between two versions, or the whole log between two positions; the events with their proofs
against one seal, the same as CSV and as a statement, the seal, the public keys, and the verifier. The
same account, versions and seal give the same bytes: no clock, fixed order, nothing compressed.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from audit import merkle, seals
from audit.models import Seal
from audit.proofs import included, seal_of
from ledger import codec, csvs, history, privacy, statements, store
from ledger.codec import RecordedEvent
from ledger.domain.money import format_amount
from ledger.errors import BusyError, InvalidInputError, NotAvailableError, NotFoundError

FORMAT = "ledger-evidence/1"
EVENTS_MAX = statements.LINES_MAX
_EPOCH = (1980, 1, 1, 0, 0, 0)
VERIFIER = Path(__file__).parent / "verify.py"


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is about: versions of an account, or with an empty account positions of the log."""

    account_id: str
    first: int
    last: int
    seal: int

    @property
    def file_name(self) -> str:
        """Says what is in it."""
        about = f"account-{self.account_id}" if self.account_id else "log"
        return f"evidence-{about}-{self.first}-{self.last}-seal-{self.seal}.zip"


def range_names(account_id: str) -> tuple[str, str]:
    """What a question calls the first and the last of them: versions of an account, or positions."""
    return ("from_version", "until_version") if account_id else ("from", "until")


def scope_of(
    account_id: str, *, first: int | None, last: int | None, size: int | None
) -> tuple[Scope, Seal]:
    """The scope asked for: by default everything that the seal covers, by default the newest seal.

    Raises:
        NotFoundError: no such account or seal.
        InvalidInputError: no such versions or positions, or more than EVENTS_MAX.
        BusyError: the end is not sealed yet.
    """
    seal, names = seal_of(size), range_names(account_id)
    if account_id:
        ends = store.head_version(account_id)
        if ends == 0:
            raise NotFoundError(f"account {account_id} does not exist")
        sealed = store.versions_until(account_id, seal.size)
    else:
        ends, sealed = store.last_position(), seal.size
    first = 1 if first is None else first
    last = sealed if last is None else last
    if not 1 <= first <= last <= ends:
        raise InvalidInputError(
            f"{first} to {last} are not there: there are 1 to {ends}", field=names[0]
        )
    if last - first >= EVENTS_MAX:
        raise InvalidInputError(f"more than {EVENTS_MAX} events: ask for fewer", field=names[1])
    if last > sealed:
        raise BusyError(
            f"{names[1]} {last} is not under the seal of {seal.size} events: ask again soon"
        )
    return Scope(account_id=account_id, first=first, last=last, seal=seal.size), seal


def bundle(scope: Scope, seal: Seal) -> bytes:
    """The zip."""
    if scope.account_id:
        statement = statements.statement_of(scope.account_id, scope.first, scope.last)
        events, files = statement.events, _account_files(statement)
    else:
        events = store.read_range(scope.first, scope.last)
        files = _log_files(scope)
    files |= {
        "events.jsonl": _jsonl(events, seal),
        "events.csv": _csv(events),
        "seal.txt": seal.note.encode(),
        "public_keys.txt": "".join(f"{key}\n" for key in seals.public_keys()).encode(),
        "verify.py": VERIFIER.read_bytes(),
    }
    files["README.txt"] = _readme(scope, sorted(files)).encode()
    manifest = {
        "format": FORMAT,
        "account_id": scope.account_id or None,
        "first": scope.first,
        "last": scope.last,
        "seal": scope.seal,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files["manifest.json"] = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return packed.getvalue()


def _account_files(statement: statements.Statement) -> dict[str, bytes]:
    currency = statement.account.currency
    figures = {
        "currency": currency,
        "opening": format_amount(statement.opening, currency),
        "came_in": format_amount(statement.came_in, currency),
        "went_out": format_amount(statement.went_out, currency),
        "closing": format_amount(statement.closing, currency),
    }
    files = {
        "statement.html": statements.as_html(statement).encode(),
        "statement.csv": statements.as_csv(statement),
        "statement.json": json.dumps(figures, indent=1).encode() + b"\n",
    }
    with suppress(InvalidInputError, NotAvailableError):  # the page says the same
        files["statement.pdf"] = statements.as_pdf(statement)
    return files


def _log_files(scope: Scope) -> dict[str, bytes]:
    """Trial balances at both ends, and the accounts concerned as they were at the later one."""
    states = [
        history.fold_to(account_id, store.versions_until(account_id, scope.last))
        for account_id in store.accounts_between(scope.first, scope.last)
    ]
    rows = (
        (
            account.account_id,
            csvs.neutral(privacy.reveal(account.holder)),
            csvs.neutral(account.reference),
            account.status,
            account.currency,
            format_amount(account.balance, account.currency),
        )
        for account in states
    )
    return {
        "trial_balance_before.json": _trial_balance(scope.first - 1),
        "trial_balance_after.json": _trial_balance(scope.last),
        "accounts.csv": csvs.write(
            ("account_id", "holder", "reference", "status", "currency", "balance"), rows
        ),
    }


def _trial_balance(position: int) -> bytes:
    found = {"position": position, "currencies": history.trial_balance(position)}
    return json.dumps(found, indent=1).encode() + b"\n"


def _jsonl(events: Sequence[RecordedEvent], seal: Seal) -> bytes:
    tree = seals.StoredTree()
    known: dict[tuple[int, int], bytes] = {}
    lines = []
    for event in events:
        path = merkle.inclusion_proof(tree, event.position - 1, seal.size, known)
        lines.append(json.dumps(included(event, path), ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _csv(events: Sequence[RecordedEvent]) -> bytes:
    header = ("position", "account_id", "version", "recorded_at", "effective_at", "type",
              "schema_version", "payload", "actor", "channel", "command_id", "correlation_id",
              "leaf_hash")  # fmt: skip
    return csvs.write(
        header,
        (
            (
                event.position,
                event.account_id,
                event.version,
                codec.format_time(event.recorded_at),
                codec.format_time(event.effective_at),
                event.type,
                event.schema_version,
                codec.canonical(codec.decode_json(event.payload)).decode(),
                csvs.neutral(event.metadata.actor),
                csvs.neutral(event.metadata.channel),
                event.metadata.command_id,
                csvs.neutral(event.metadata.correlation_id),
                event.leaf_hash.hex(),
            )
            for event in events
        ),
    )


def _readme(scope: Scope, names: Sequence[str]) -> str:
    if scope.account_id:
        about = f"account {scope.account_id}, versions {scope.first} to {scope.last} of its history"
    else:
        about = f"the whole ledger, positions {scope.first} to {scope.last} of its log"
    listed = "\n".join(f"  {name:26}{_FILES[name]}" for name in names)
    return f"""Evidence from the ledger: {about}.

What it shows
  Every event in events.jsonl is in the log that the seal of {scope.seal} events speaks of, with exactly
  this content, at this position, recorded at this time. The events are complete: none between the
  first and the last is left out. The figures follow from them by adding up.
  Whoever holds an earlier seal can have it proven that this one extends it: nothing before was changed.

How to check it, without the ledger and without a network
  1. Get the ledger's public key from a place that you trust; do not take the one in here on trust.
  2. Python 3.10 or newer, and: pip install cryptography
  3. python verify.py {scope.file_name} --key KEY
  It says "Everything holds.", or names the first thing that does not. verify.py is short and made to
  be read; a copy from elsewhere does the same.

What it does not show
  That what was recorded is true of the world: only that it was recorded, then, so, and not changed since.
  A statement that does not begin with version 1 takes its opening balance from events that are not here.

Files
{listed}
"""


_FILES = {
    "accounts.csv": "the accounts concerned, as they were at the last position",
    "events.csv": "the events for a spreadsheet; text that looks like a formula has an apostrophe",
    "events.jsonl": "the events, one a line, each with its proof",
    "public_keys.txt": "the ledger's public keys, as it gives them itself",
    "seal.txt": "the signed tree head (C2SP tlog-checkpoint)",
    "statement.csv": "the statement for a spreadsheet",
    "statement.html": "the statement for a browser",
    "statement.json": "the statement's figures",
    "statement.pdf": "the statement as PDF",
    "trial_balance_after.json": "per currency, after the last position",
    "trial_balance_before.json": "per currency, before the first position",
    "verify.py": "the verifier",
}
