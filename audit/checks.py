"""Verify everything that is stored against the events, and the events against what was sealed.

Two passes that can run side by side: along the logs (positions, time, hashes, trees, seals; events,
records of commands, looks) and account by account (versions, heads, snapshots, what Redis holds, the
trial balance). Each finding names the row, and the column as far as the evidence tells it. The first
finding along the log is the first place where history and proof part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Generic, TypeVar

import msgspec
from django.conf import settings

from audit import merkle, notes, seals
from audit.models import Node, Seal
from ledger import codec, history, store
from ledger.codec import STATE_SCHEMA, RecordedEvent
from ledger.domain.state import Account, evolve
from ledger.errors import StateIncompleteError
from ledger.store import LOGS, Log, Record

Progress = Callable[[int, int], None]
FINDINGS_MAX = 100
ACCOUNTS_AT_ONCE = 500
CONTENT = (
    "account_id, version, type, schema_version, payload, metadata, effective_at or recorded_at"
)

RECORD: Mapping[Log, str] = {
    "commands": ", ".join(store.COMMAND_FIELDS) + ", first_position or last_position",
    "reads": ", ".join(store.ACCESS_FIELDS) + " or at",
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not hold: which row, which column, what is wrong with it."""

    row: str
    column: str
    problem: str

    def __str__(self) -> str:
        return f"{self.row}, {self.column}: {self.problem}"


class Report(msgspec.Struct, kw_only=True):
    """What a pass found, at most FINDINGS_MAX of it, and how much it covered."""

    covered: dict[Log, int] = {}
    accounts: int = 0
    copies: int = 0
    seals: int = 0
    sums: dict[str, int] = {}
    findings: list[Finding] = []
    findings_total: int = 0

    def take(self, other: "Report") -> None:
        """Add what another pass covered and found."""
        self.covered |= other.covered
        self.accounts += other.accounts
        self.copies += other.copies
        self.seals += other.seals
        self.sums |= other.sums
        self.findings = (self.findings + other.findings)[:FINDINGS_MAX]
        self.findings_total += other.findings_total

    def add(self, row: str, column: str, problem: str) -> None:
        """Note a finding."""
        self.findings_total += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(row=row, column=column, problem=problem))


Entry = TypeVar("Entry", RecordedEvent, Record)


class TreePass(Generic[Entry]):
    """One pass along a log up to `end`, a page at a time, so that it can be laid down and resumed."""

    log: Log = "events"
    number: str = "number"

    def __init__(
        self,
        report: Report,
        end: int,
        *,
        growing: merkle.Growing | None = None,
        before: datetime | None = None,
        witness: Sequence[seals.Witnessed] = (),
    ) -> None:
        self.report = report
        self.end = end
        self.growing = growing or merkle.Growing()
        self.before = before
        report.covered[self.log] = self.growing.size
        self.sealed = _Sealed(report, self.log, witness)
        self.is_done = False

    def step(self) -> None:
        """Check the next page; after the last one, what concerns the whole."""
        growing, report = self.growing, self.report
        if growing.size >= self.end:
            self.sealed.check_ahead(self.end)
            self.check_whole()
            self.is_done = True
            return
        after = growing.size
        page = self.read(after, self.end)
        kept = _kept_nodes(self.log, after, after + store.PAGE)
        self.sealed.load(after, min(after + store.PAGE, self.end))
        for entry in page:
            if self.number_of(entry) != growing.size + 1:
                break
            self.check(entry)
            for level, index, found in growing.add(entry.leaf_hash):
                _check_node(report, self.log, level, index, found, kept)
            self.sealed.check(growing)
        report.covered[self.log] = growing.size
        if not page or growing.size < self.number_of(page[-1]):
            # Every leaf from here on would stand in a wrong place.
            row = f"{self.log.removesuffix('s')} {growing.size + 1}"
            report.add(row, self.number, "is missing")
            self.is_done = True
            return
        self.check_page(page)

    def read(self, after: int, until: int) -> Sequence[Entry]:
        """The next page."""
        raise NotImplementedError

    def number_of(self, entry: Entry) -> int:
        """Its place in the log."""
        raise NotImplementedError

    def check(self, entry: Entry) -> None:
        """One entry by itself."""
        raise NotImplementedError

    def check_page(self, page: Sequence[Entry]) -> None:
        """Entries against what else speaks of them."""

    def check_whole(self) -> None:
        """Once all entries were seen."""


class EventsPass(TreePass[RecordedEvent]):
    """Along the log."""

    number = "position"

    def read(self, after: int, until: int) -> Sequence[RecordedEvent]:
        """See `TreePass`."""
        return store.read_log(after=after, until=until)

    def number_of(self, entry: RecordedEvent) -> int:
        """See `TreePass`."""
        return entry.position

    def check(self, entry: RecordedEvent) -> None:
        """See `TreePass`."""
        _check_event(self.report, entry, self.before)
        self.before = entry.recorded_at

    def check_page(self, page: Sequence[RecordedEvent]) -> None:
        """Against the records of the commands that caused them."""
        for position, command_id, column in store.commands_unlike_events(
            page[0].position, page[-1].position
        ):
            self.report.add(
                f"command {command_id}", column, f"does not agree with its event {position}"
            )

    def check_whole(self) -> None:
        """The commands account for every event."""
        counted = store.count_commanded(self.end)
        if counted != self.end and not self.report.findings_total:
            self.report.add(
                "commands", "last_position", f"account for {counted} events of {self.end}"
            )


class RecordsPass(TreePass[Record]):
    """Along the records of commands, or of looks."""

    def __init__(self, log: Log, *args: Any, **options: Any) -> None:
        self.log = log
        super().__init__(*args, **options)

    def read(self, after: int, until: int) -> Sequence[Record]:
        """See `TreePass`."""
        last = min(after + store.PAGE, until)
        if self.log == "commands":
            return store.read_commands(after + 1, last)
        return store.read_accesses(after + 1, last)

    def number_of(self, entry: Record) -> int:
        """See `TreePass`."""
        return entry.number

    def check(self, entry: Record) -> None:
        """See `TreePass`."""
        if entry.leaf_hash != entry.expected:
            self.report.add(entry.name, RECORD[self.log], "is not what leaf_hash was made of")


def pass_along(log: Log, report: Report, end: int, **options: Any) -> TreePass[Any]:
    """The pass along one of the logs."""
    if log == "events":
        return EventsPass(report, end, **options)
    return RecordsPass(log, report, end, **options)


def check_log(
    logs: Sequence[Log] = LOGS,
    *,
    witness: Mapping[Log, Sequence[seals.Witnessed]] | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Along the logs from first entry to their ends as of now; `witness` are seals kept outside."""
    report = Report()
    ends = {log: store.end_of(log) for log in logs}
    total, before = sum(ends.values()), 0
    for log in logs:
        along = pass_along(log, report, ends[log], witness=(witness or {}).get(log, ()))
        while not along.is_done:
            along.step()
            progress(before + along.growing.size, total)
        before += ends[log]
    return report


def _check_event(report: Report, event: RecordedEvent, before: datetime | None) -> None:
    row = f"event {event.position}"
    if codec.leaf_hash_of(event) != event.leaf_hash:
        report.add(row, CONTENT, "is not what leaf_hash was made of")
    if before is not None and event.recorded_at < before:
        report.add(row, "recorded_at", "is before that of the event before it")


def _kept_nodes(log: Log, after: int, until: int) -> dict[tuple[int, int], bytes]:
    """The kept nodes that entries after `after` up to `until` complete."""
    found: dict[tuple[int, int], bytes] = {}
    level, width = 1, merkle.TILE
    while until >= width:
        first = seals.node_key(log, level)
        rows = Node.objects.filter(
            key__gte=first + after // width, key__lt=first + until // width
        ).values_list("key", "hash")
        found |= {(level, key - first): bytes(value) for key, value in rows}
        level, width = level + 1, width * merkle.TILE
    return found


def _check_node(
    report: Report,
    log: Log,
    level: int,
    index: int,
    found: bytes,
    kept: dict[tuple[int, int], bytes],
) -> None:
    stored = kept.get((level, index))
    if stored is not None and stored != found:  # not there: not sealed yet
        width = merkle.TILE**level
        report.add(
            f"{log} {index * width + 1} to {(index + 1) * width}",
            "leaf_hash",
            f"do not have the hash that the tree keeps (audit_node {seals.node_key(log, level, index)})",
        )


class _Sealed:
    """Compares the growing tree with every seal, stored ones and those of the witness."""

    def __init__(self, report: Report, log: Log, witness: Sequence[seals.Witnessed]) -> None:
        self.report = report
        self.log = log
        self.keys = seals.public_keys()
        self.origins = {
            seals.origin_of(log, key.partition("+")[0], epoch)
            for key in self.keys
            for epoch in range(1, settings.LEDGER_EPOCH + 1)
        }
        self.witness = witness
        self.waiting: list[tuple[int, str, str, bytes]] = []

    def load(self, after: int, until: int) -> None:
        """The seals of more than `after` and at most `until` events are next."""
        rows = Seal.objects.filter(log=self.log, size__gt=after, size__lte=until)
        stored = [(item.size, "seal", item.note, bytes(item.root)) for item in rows]
        outside = [
            (item.size, "witnessed seal", item.note, b"")
            for item in self.witness
            if after < item.size <= until
        ]
        self.waiting = sorted(stored + outside)[::-1]

    def check(self, growing: merkle.Growing) -> None:
        """Every seal of just this size."""
        while self.waiting and self.waiting[-1][0] == growing.size:
            size, kind, note, root = self.waiting.pop()
            self.report.seals += 1
            row = f"{kind} of {size} {self.log}"
            try:
                said = notes.verify(note, self.keys)
            except notes.NoteError as error:
                self.report.add(row, "note", str(error))
                continue
            if said.origin not in self.origins:
                self.report.add(row, "note", f"is of another log: {said.origin}")
            if said.size != size or (root and said.root != root):
                self.report.add(row, "root", "is not what its signed note says")
            if said.root != growing.root():
                self.report.add(
                    row,
                    "root",
                    f"the first {size} {self.log} no longer have the root that was signed",
                )

    def check_ahead(self, end: int) -> None:
        """Seals of more entries than there are, however much the log has grown meanwhile."""
        rows = Seal.objects.filter(log=self.log, size__gt=end)
        ahead = [("seal", size) for size in rows.values_list("size", flat=True)]
        ahead += [("witnessed seal", item.size) for item in self.witness if item.size > end]
        last = store.end_of(self.log)
        for kind, size in sorted(ahead, key=lambda item: item[1]):
            if size > last:
                self.report.add(
                    f"{kind} of {size} {self.log}",
                    "size",
                    f"the log ends at {last}: its tail is gone",
                )


def check_accounts(*, progress: Progress = lambda _done, _total: None) -> Report:
    """Account by account: versions without a gap; heads, snapshots and copies equal to a replay; sums."""
    report, end = Report(), store.last_position()
    check_heads_exist(report)
    total, after = store.count_accounts(), store.FIRST_ACCOUNT
    while after:
        after = check_accounts_after(report, after, end=end)
        progress(report.accounts, max(total, report.accounts))
    check_sums(report, end)
    check_outside(report)
    return report


def check_outside(report: Report) -> None:
    """What Kafka and Redis say they hold is of this log, not of one that was restored since."""
    for name, ask in history.OUTSIDE.items():
        if problem := ask():
            report.add(name, "position", problem)


def check_sums(report: Report, end: int) -> None:
    """The trial balance at `end`, summed by the database from amounts, against the replayed balances.

    Money that moves between accounts sums to zero; what came in is what the accounts hold.
    """
    kept = store.last_kept_sums(end)
    below = store.sums_between(0, kept)
    _check_kept_sums(report, kept, below)
    said: dict[str, int] = {}
    between: dict[str, int] = {}
    for currency, kind, outside, _, minor in (*below, *store.sums_between(kept, end)):
        said[currency] = said.get(currency, 0) + minor
        if kind in ("TransferSent", "TransferReceived") and not outside:
            between[currency] = between.get(currency, 0) + minor
    for currency in sorted(said.keys() | report.sums.keys()):
        row = f"trial balance in {currency} at position {end}"
        held, moved = report.sums.get(currency, 0), said.get(currency, 0)
        if held != moved:
            report.add(row, "accounts", f"hold {held} minor units, the events moved {moved}")
        if between.get(currency, 0):
            report.add(row, "transfers", f"sum to {between[currency]} minor units, not to zero")


def _check_kept_sums(report: Report, position: int, said: store.Sums) -> None:
    """What is kept of the trial balance at `position` is what the events say."""
    kept = {row[:3]: row[3:] for row in store.kept_sums(position)}
    true = {row[:3]: row[3:] for row in said}
    for name in sorted(kept.keys() | true.keys()):
        if kept.get(name) != true.get(name):
            report.add(
                f"kept sum of {' '.join(filter(None, name))} at position {position}",
                "minor",
                f"is {kept.get(name)}, the events say {true.get(name)} (count, minor units)",
            )


def check_heads_exist(report: Report) -> None:
    """Every account that has events has a head."""
    for account_id in store.accounts_without_head():
        report.add(f"head of {account_id}", "id", "is missing")


def check_accounts_after(
    report: Report, after: str, limit: int = ACCOUNTS_AT_ONCE, *, end: int
) -> str:
    """Check the next accounts, and add up their balances as of position `end`.

    Returns the last of them, empty when there were none.
    """
    ids = store.account_ids_after(after, limit)
    if not ids:
        return ""
    states = _States(report, ids, end)
    for account_id, events in groupby(store.read_streams(ids), key=lambda e: e.account_id):
        states.check(account_id, events)
    report.accounts += len(ids)
    return ids[-1]


class _States:
    """Stored heads, snapshots and copies of some accounts, to be compared with a replay."""

    def __init__(self, report: Report, ids: Sequence[str], end: int) -> None:
        self.report = report
        self.end = end
        self.copies = {name: read(ids) for name, read in history.COPIES.items()}
        self.heads = store.read_heads(ids)
        self.snapshots = store.read_snapshots(ids, state_schema=STATE_SCHEMA)

    def check(self, account_id: str, events: Iterator[RecordedEvent]) -> None:
        """Fold the events of one account and compare on the way."""
        account = Account(account_id=account_id)
        head, position = self.heads[account_id]
        copies = {
            name: found[account_id] for name, found in self.copies.items() if account_id in found
        }
        balance = 0
        for event in events:
            if event.version != account.version + 1:
                self.report.add(
                    f"event {event.position}", "version", f"does not follow {account.version}"
                )
                return
            try:
                account = evolve(account, event.event)
            except (StateIncompleteError, KeyError) as error:
                self.report.add(f"event {event.position}", "payload", str(error))
                return
            snapshot = self.snapshots.get((account_id, account.version))
            if snapshot is not None:
                row = f"snapshot of {account_id} at version {account.version}"
                self._compare(row, account, event.position, *snapshot)
            if account.version == head.version and head.state_schema == STATE_SCHEMA:
                row = f"head of {account_id}"
                self._compare(row, account, event.position, position, head.state)
            self._compare_copies(copies, account, event.position)
            if event.position <= self.end:
                balance = account.balance
        sums = self.report.sums
        sums[account.currency] = sums.get(account.currency, 0) + balance
        for name, copy in copies.items():
            self._check_version(f"{name} entry of {account_id}", copy, account)
        if account.version < head.version:
            self.report.add(
                f"head of {account_id}",
                "version",
                f"is {head.version}, the events end at {account.version}",
            )

    def _compare_copies(
        self, copies: Mapping[str, history.Copy], account: Account, position: int
    ) -> None:
        for name, copy in copies.items():
            if copy.version == account.version:
                row = f"{name} entry of {account.account_id}"
                self._compare(row, account, position, copy.position, copy.state)

    def _check_version(self, row: str, copy: history.Copy, account: Account) -> None:
        """A copy may lag, but not behind what it says it holds, and never be ahead."""
        self.report.copies += 1
        if copy.version > account.version or copy.is_behind:
            said = f"is {copy.version}" if copy.version else "is missing"
            self.report.add(row, "version", f"{said}, the events end at {account.version}")

    def _compare(
        self, row: str, account: Account, position: int, stored_position: int, state: str
    ) -> None:
        if stored_position != position:
            self.report.add(row, "position", f"is {stored_position}, the event's is {position}")
        try:
            stored = codec.decode_account(state)
        except msgspec.MsgspecError as error:
            self.report.add(row, "state", f"cannot be read: {error}")
            return
        if stored != account:
            one, other = msgspec.to_builtins(stored), msgspec.to_builtins(account)
            name = next(name for name in other if one[name] != other[name])
            self.report.add(
                row, f"state.{name}", f"is {one[name]!r}, the events say {other[name]!r}"
            )
