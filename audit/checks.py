"""Verify everything that is stored against the events, and the events against what was sealed.

Two passes that can run side by side: along the log (positions, time, hashes, tree, seals, commands)
and account by account (versions, heads, snapshots). Each finding names the row, and the column as
far as the evidence tells it. The first finding along the log is the first place where history and
proof part.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

import msgspec

from audit import merkle, notes, seals
from audit.models import Node, Seal
from ledger import codec, store
from ledger.codec import STATE_SCHEMA, RecordedEvent
from ledger.domain.state import Account, evolve
from ledger.errors import StateIncompleteError

Progress = Callable[[int, int], None]
FINDINGS_MAX = 100
ACCOUNTS_AT_ONCE = 500
FIRST_ACCOUNT = "00000000-0000-0000-0000-000000000000"
CONTENT = (
    "account_id, version, type, schema_version, payload, metadata, effective_at or recorded_at"
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not hold: which row, which column, what is wrong with it."""

    row: str
    column: str
    problem: str

    def __str__(self) -> str:
        return f"{self.row}, {self.column}: {self.problem}"


class Report(msgspec.Struct, kw_only=True):
    """What a pass found, at most FINDINGS_MAX of it, and how much it covered."""

    events: int = 0
    accounts: int = 0
    seals: int = 0
    findings: list[Finding] = []
    findings_total: int = 0

    def add(self, row: str, column: str, problem: str) -> None:
        """Note a finding."""
        self.findings_total += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(row=row, column=column, problem=problem))


class LogPass:
    """One pass along the log up to `end`, a page at a time, so that it can be laid down and resumed."""

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
        self.sealed = _Sealed(report, witness)
        self.is_done = False

    def step(self) -> None:
        """Check the next page; after the last one, what concerns the whole."""
        growing, report = self.growing, self.report
        if growing.size >= self.end:
            self.sealed.check_ahead(self.end)
            _check_command_counts(report, self.end)
            self.is_done = True
            return
        page = store.read_log(after=growing.size, until=self.end)
        kept = _kept_nodes(growing.size, growing.size + store.PAGE)
        self.sealed.load(growing.size, min(growing.size + store.PAGE, self.end))
        for event in page:
            if event.position != growing.size + 1:
                break
            _check_event(report, event, self.before)
            self.before = event.recorded_at
            for level, index, found in growing.add(event.leaf_hash):
                _check_node(report, level, index, found, kept)
            self.sealed.check(growing)
        if not page or growing.size < page[-1].position:
            # Every leaf from here on would stand in a wrong place.
            report.add(f"event {growing.size + 1}", "position", "the event is missing")
            self.is_done = True
            return
        _check_commands(report, page[0].position, page[-1].position)
        report.events = growing.size


def check_log(
    *, witness: Sequence[seals.Witnessed] = (), progress: Progress = lambda _done, _total: None
) -> Report:
    """Along the log from its first event to its end as of now; `witness` are seals kept outside."""
    whole = LogPass(Report(), store.last_position(), witness=witness)
    while not whole.is_done:
        whole.step()
        progress(whole.report.events, whole.end)
    return whole.report


def _check_event(report: Report, event: RecordedEvent, before: datetime | None) -> None:
    row = f"event {event.position}"
    if codec.leaf_hash_of(event) != event.leaf_hash:
        report.add(row, CONTENT, "is not what leaf_hash was made of")
    if before is not None and event.recorded_at < before:
        report.add(row, "recorded_at", "is before that of the event before it")


def _kept_nodes(after: int, until: int) -> dict[tuple[int, int], bytes]:
    """The kept nodes that events after `after` up to `until` complete."""
    found: dict[tuple[int, int], bytes] = {}
    level, width = 1, merkle.TILE
    while until >= width:
        first = level * seals.KEY_OF_LEVEL
        rows = Node.objects.filter(
            key__gte=first + after // width, key__lt=first + until // width
        ).values_list("index", "hash")
        found |= {(level, index): bytes(value) for index, value in rows}
        level, width = level + 1, width * merkle.TILE
    return found


def _check_node(
    report: Report, level: int, index: int, found: bytes, kept: dict[tuple[int, int], bytes]
) -> None:
    stored = kept.get((level, index))
    if stored is not None and stored != found:  # not there: not sealed yet
        width = merkle.TILE**level
        report.add(
            f"events {index * width + 1} to {(index + 1) * width}",
            "leaf_hash",
            f"do not have the hash that the tree keeps (audit_node level {level}, {index})",
        )


class _Sealed:
    """Compares the growing tree with every seal, stored ones and those of the witness."""

    def __init__(self, report: Report, witness: Sequence[seals.Witnessed]) -> None:
        self.report = report
        self.keys = seals.public_keys()
        self.witness = witness
        self.waiting: list[tuple[int, str, str, bytes]] = []

    def load(self, after: int, until: int) -> None:
        """The seals of more than `after` and at most `until` events are next."""
        rows = Seal.objects.filter(size__gt=after, size__lte=until)
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
            row = f"{kind} of {size} events"
            try:
                said = notes.verify(note, self.keys)
            except notes.NoteError as error:
                self.report.add(row, "note", str(error))
                continue
            if said.size != size or (root and said.root != root):
                self.report.add(row, "root", "is not what its signed note says")
            if said.root != growing.root():
                self.report.add(
                    row, "root", f"the first {size} events no longer have the root that was signed"
                )

    def check_ahead(self, end: int) -> None:
        """Seals of more events than there are, however much the log has grown meanwhile."""
        ahead = [
            ("seal", size)
            for size in Seal.objects.filter(size__gt=end).values_list("pk", flat=True)
        ]
        ahead += [("witnessed seal", item.size) for item in self.witness if item.size > end]
        last = store.last_position()
        for kind, size in sorted(ahead, key=lambda item: item[1]):
            if size > last:
                self.report.add(
                    f"{kind} of {size} events", "size", f"the log ends at {last}: its tail is gone"
                )


def _check_commands(report: Report, first: int, last: int) -> None:
    """Events against the records of the commands that caused them."""
    for position, command_id, column in store.commands_unlike_events(first, last):
        report.add(f"command {command_id}", column, f"does not agree with its event {position}")


def _check_command_counts(report: Report, end: int) -> None:
    counted = store.count_commanded(end)
    if counted != end and not report.findings_total:
        report.add("commands", "last_position", f"account for {counted} events of {end}")


def check_accounts(*, progress: Progress = lambda _done, _total: None) -> Report:
    """Account by account: versions without a gap, heads and snapshots equal to a replay."""
    report = Report()
    check_heads_exist(report)
    total, after = store.count_accounts(), FIRST_ACCOUNT
    while after:
        after = check_accounts_after(report, after)
        progress(report.accounts, max(total, report.accounts))
    return report


def check_heads_exist(report: Report) -> None:
    """Every account that has events has a head."""
    for account_id in store.accounts_without_head():
        report.add(f"head of {account_id}", "id", "is missing")


def check_accounts_after(report: Report, after: str, limit: int = ACCOUNTS_AT_ONCE) -> str:
    """Check the next accounts; returns the last of them, empty when there were none."""
    ids = store.account_ids_after(after, limit)
    if not ids:
        return ""
    states = _States(report, ids)
    for account_id, events in groupby(store.read_streams(ids), key=lambda e: e.account_id):
        states.check(account_id, events)
    report.accounts += len(ids)
    return ids[-1]


class _States:
    """Stored heads and snapshots of some accounts, to be compared with a replay."""

    def __init__(self, report: Report, ids: Sequence[str]) -> None:
        self.report = report
        self.heads = store.read_heads(ids)
        self.snapshots = store.read_snapshots(ids, state_schema=STATE_SCHEMA)

    def check(self, account_id: str, events: Iterator[RecordedEvent]) -> None:
        """Fold the events of one account and compare on the way."""
        account = Account(account_id=account_id)
        head, position = self.heads[account_id]
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
        if account.version < head.version:
            self.report.add(
                f"head of {account_id}",
                "version",
                f"is {head.version}, the events end at {account.version}",
            )

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
