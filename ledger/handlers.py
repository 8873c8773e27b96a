"""Decide a batch of commands against the accounts as they are, and lay out what is to be appended.

Pure but for folding an account whose head is not trusted. The bus (`ledger.bus`) feeds it; nothing
here writes. A command that is refused, or that meets a bug, never takes a neighbour down.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import uuid_utils.compat as uuid7

from ledger import codec, history, privacy, store
from ledger.codec import STATE_SCHEMA, Metadata
from ledger.domain import commands as c
from ledger.domain.decide import Decided, Facts, Original, decide
from ledger.domain.events import Event
from ledger.domain.state import Account, evolve
from ledger.errors import (
    BatchRefused,
    IdempotencyKeyReusedError,
    LedgerError,
    NotFoundError,
    Rejected,
    WrongExpectedVersionError,
    rejected_from_record,
)
from ledger.models import Command

log = logging.getLogger(__name__)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A command with who sent it and how.

    `sender` scopes the idempotency key. `fingerprint` covers the meaning of the request: equal for
    an honest retry, whatever its spelling. `expected_version` is that of the command's first
    account. `dry_run` decides and stores nothing.
    """

    command_id: str
    command: c.Command
    sender: str
    key: str
    fingerprint: bytes
    actor: str
    channel: str
    correlation_id: str = ""
    causation_id: str = ""
    expected_version: int | None = None
    dry_run: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """What makes two requests the same."""
        return (self.sender, self.key)


class OutcomeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an outcome; `position` is None in a dry run."""

    account_id: str
    version: int
    type: str
    position: int | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command. `accounts` are as they were right after it."""

    command_id: str
    name: str
    received_at: datetime
    error: Rejected | None = None
    recorded_at: datetime | None = None
    first_position: int | None = None
    last_position: int | None = None
    events: list[OutcomeEvent] = []
    accounts: list[Account] = []
    replayed: bool = False
    dry_run: bool = False


Result = Outcome | Exception
Unit = Sequence[Envelope]
"""Envelopes that stand or fall together: one, or an atomic batch."""


def envelope(
    command: c.Command,
    *,
    sender: str,
    key: str,
    actor: str,
    channel: str,
    request: Mapping[str, Any] | None = None,
    **options: Any,
) -> Envelope:
    """Wrap `command` with a new id and the fingerprint of its meaning.

    `request` replaces the command's fields in the fingerprint where some of them were made by the
    server rather than sent (a new account's id).
    """
    meaning = {"name": type(command).__name__, "body": request or c.body_of(command)}
    command_id = str(uuid7.uuid7())
    return Envelope(
        command_id=command_id,
        command=command,
        sender=sender,
        key=key,
        fingerprint=hashlib.sha256(codec.canonical(meaning)).digest(),
        actor=actor,
        channel=channel,
        **options,
    )


class Plan:
    """The decisions over one batch: rows to append, and a result for every envelope."""

    def __init__(self, loaded: store.Loaded) -> None:
        self.loaded = loaded
        self.sealer = privacy.Sealer(loaded.heads)
        self.received_at = codec.format_time(loaded.now)
        self.accounts: dict[str, Account] = {}
        self.expected: dict[str, int] = {}
        self.commands: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.last_event: dict[str, int] = {}
        self.reversed: dict[str, str] = {}
        self.results: dict[str, Callable[[store.Appended], Result]] = {}
        self.first_of: dict[tuple[str, str], Envelope] = {}

    def run(self, units: Sequence[Unit]) -> None:
        """Decide every unit, one after another, each against what the ones before it left."""
        for unit in units:
            fresh = [item for item in unit if not self._is_known(item)]
            if len(unit) == 1:
                for item in fresh:
                    self._decide_single(item)
            elif fresh:
                self._decide_atomic(fresh)

    def batch(self) -> str:
        """The JSON for ``ledger_append``; empty when there is nothing to write."""
        if not self.commands:
            return ""
        heads = [
            {
                "account_id": account_id,
                "expected_version": self.expected[account_id],
                "n": number,
                "version": self.accounts[account_id].version,
                "state": self.accounts[account_id],
                "state_schema": STATE_SCHEMA,
            }
            for account_id, number in self.last_event.items()
        ]
        closed = self.loaded.closed_through
        return codec.encode(
            {
                "closed_through": codec.to_micros(closed) if closed else 0,
                "commands": self.commands,
                "events": self.events,
                "heads": heads,
                "snapshots": self.snapshots,
            }
        )

    # -- one command -----------------------------------------------------------------------------

    def _is_known(self, item: Envelope) -> bool:
        """Answer `item` by an earlier command of the same key, if there is one."""
        if item.dry_run:
            return False
        earlier = self.first_of.get(item.identity)
        if earlier is not None:
            if earlier.fingerprint != item.fingerprint:
                self.results[item.command_id] = _always(_key_reused(item))
            else:
                first = self.results[earlier.command_id]
                self.results[item.command_id] = lambda done: _as_replay(first(done))
            return True
        known = self.loaded.commands.get(item.identity)
        if known is None:
            self.first_of[item.identity] = item
            return False
        if known.fingerprint != item.fingerprint:
            self.results[item.command_id] = _always(_key_reused(item))
        else:
            # Its own id: a first try whose answer was lost with the connection did commit.
            is_own = known.command_id == item.command_id
            self.results[item.command_id] = lambda _: (
                outcome_of(known.command_id) if is_own else _as_replay(outcome_of(known.command_id))
            )
        return True

    def _decide_single(self, item: Envelope) -> None:
        try:
            decided = self._decide(item, self.accounts)
        except Rejected as refusal:
            self._refuse(item, refusal)
        except LedgerError as error:
            self._fail(item, error)
        except Exception as error:  # one command's bug must not fail its neighbours
            log.exception("deciding %s failed", type(item.command).__name__)
            self._fail(item, error)
        else:
            self._accept(item, decided, self.accounts)

    def _decide_atomic(self, unit: Unit) -> None:
        """Decide on copies; take all of it or none."""
        trial: dict[str, Account] = {}
        accounts = _Overlay(self, trial)
        reversed_before = dict(self.reversed)
        decisions: list[tuple[Envelope, list[Decided], dict[str, Account]]] = []
        for item in unit:
            try:
                decided = self._decide(item, accounts)
            except Rejected as refusal:
                self.reversed = reversed_before
                for other in unit:
                    reason = refusal if other is item else _batch_refused(item, refusal)
                    self._refuse(other, reason)
                return
            except Exception as error:  # as in _decide_single; the whole unit fails together
                self.reversed = reversed_before
                if not isinstance(error, LedgerError):
                    log.exception("deciding %s failed", type(item.command).__name__)
                for other in unit:
                    self._fail(other, error)
                return
            before = {account_id: accounts[account_id] for account_id, _, _ in decided}
            for account_id, event, _ in decided:
                trial[account_id] = evolve(accounts[account_id], event)
            decisions.append((item, decided, before))
        for item, decided, before in decisions:
            self._accept(item, decided, before)

    def _decide(self, item: Envelope, accounts: Mapping[str, Account]) -> list[Decided]:
        command = item.command
        original = self._original(command.undoes) if command.undoes else None
        wanted = command.account_ids
        if isinstance(command, c.ReverseTransaction):
            wanted = tuple(leg[0] for leg in original.legs) if original else ()
        states = {account_id: self._account(account_id, accounts) for account_id in wanted}
        if item.expected_version is not None and wanted:
            version = states[wanted[0]].version
            if version != item.expected_version:
                raise WrongExpectedVersionError(
                    f"account {wanted[0]} is at version {version}, not {item.expected_version}",
                    field="If-Match",
                    current_version=version,
                )
        facts = Facts(
            command_id=item.command_id,
            now=self.loaded.now,
            closed_through=self.loaded.closed_through,
            accounts=states,
            original=original,
        )
        decided = decide(command, facts)
        if isinstance(command, c.ReverseTransaction) and not item.dry_run:
            self.reversed[command.transaction_id] = item.command_id
        return [
            (account_id, event if item.dry_run else self.sealer.event(account_id, event), effective)
            for account_id, event, effective in decided
        ]

    def _account(self, account_id: str, accounts: Mapping[str, Account]) -> Account:
        if account_id in accounts:
            return accounts[account_id]
        head = self.loaded.heads.get(account_id)
        state = Account(account_id=account_id) if head is None else history.trusted(head)
        self.accounts[account_id] = state
        self.expected[account_id] = state.version
        return state

    def _original(self, transaction_id: str) -> Original | None:
        legs = self.loaded.originals.get(transaction_id)
        if legs is None:
            return None
        return Original(
            legs=[
                (leg.account_id, codec.decode_event(leg.type, leg.schema_version, leg.payload))
                for leg in legs
            ],
            reversed_by=self.reversed.get(transaction_id, legs[0].reversed_by),
        )

    # -- rows and results ------------------------------------------------------------------------

    def _accept(
        self, item: Envelope, decided: list[Decided], before: Mapping[str, Account]
    ) -> None:
        metadata = Metadata(
            command_id=item.command_id,
            actor=item.actor,
            correlation_id=item.correlation_id or item.command_id,
            causation_id=item.causation_id or item.command_id,
            channel=item.channel,
        )
        first = len(self.events) + 1
        after: dict[str, Account] = {}
        events: list[OutcomeEvent] = []
        for account_id, event, effective_at in decided:
            state = evolve(after.get(account_id) or before[account_id], event)
            after[account_id] = state
            events.append(
                OutcomeEvent(
                    account_id=account_id,
                    version=state.version,
                    type=type(event).__name__,
                    position=None,
                )
            )
            if item.dry_run:
                continue
            self._add_event(state, event, effective_at, metadata)
        if not item.dry_run:
            self.accounts.update(after)
            self.commands.append(
                self._command_row(
                    item, decided[0][0], outcome="accepted", first=first, last=len(self.events)
                )
            )
        accounts = list(after.values())

        def result(done: store.Appended) -> Result:
            outcome = Outcome(
                command_id=item.command_id,
                name=type(item.command).__name__,
                received_at=self.loaded.now,
                accounts=accounts,
                events=events,
                dry_run=item.dry_run,
            )
            if item.dry_run:
                return outcome
            return msgspec.structs.replace(
                outcome,
                recorded_at=codec.from_micros(done.recorded_at),
                first_position=done.base + first,
                last_position=done.base + first + len(events) - 1,
                events=[
                    msgspec.structs.replace(event, position=done.base + first + offset)
                    for offset, event in enumerate(events)
                ],
            )

        self.results[item.command_id] = result

    def _add_event(
        self, state: Account, event: Event, effective_at: datetime, metadata: Metadata
    ) -> None:
        number = len(self.events) + 1
        event_type, schema_version = type(event).__name__, type(event).schema_version
        effective = codec.format_time(effective_at)
        self.events.append(
            {
                "n": number,
                "account_id": state.account_id,
                "version": state.version,
                "type": event_type,
                "schema_version": schema_version,
                "payload": event,
                "metadata": metadata,
                "effective_at": effective,
                "digest": codec.digest(
                    codec.content(
                        account_id=state.account_id,
                        version=state.version,
                        event_type=event_type,
                        schema_version=schema_version,
                        payload=event,
                        metadata=metadata,
                        effective_at=effective,
                    )
                ).hex(),
            }
        )
        self.last_event[state.account_id] = number
        if state.version % history.SNAPSHOT_EVERY == 0:
            self.snapshots.append(
                {
                    "account_id": state.account_id,
                    "n": number,
                    "version": state.version,
                    "state": state,
                    "state_schema": STATE_SCHEMA,
                }
            )

    def _command_row(
        self, item: Envelope, subject: str, *, outcome: str, error: Any = None, **positions: int
    ) -> dict[str, Any]:
        """`subject` is the account whose key seals the words; empty if there is none."""
        account_ids = item.command.account_ids
        record = {
            "id": item.command_id,
            "sender": item.sender,
            "idempotency_key": item.key,
            "fingerprint": item.fingerprint.hex(),
            "name": type(item.command).__name__,
            "body": self.sealer.body(subject, c.body_of(item.command)),
            "outcome": outcome,
            "error": error,
            "account_id": account_ids[0] if account_ids else None,
            "actor": item.actor,
            "correlation_id": item.correlation_id or item.command_id,
            "channel": item.channel,
            "received_at": self.received_at,
        }
        digest = codec.digest(codec.canonical(record)).hex()
        return {**record, **positions, "n": len(self.commands) + 1, "digest": digest}

    def _refuse(self, item: Envelope, refusal: Rejected) -> None:
        if not item.dry_run:
            self.commands.append(
                self._command_row(
                    item, self._subject(item), outcome="rejected", error=refusal.as_record()
                )
            )
        outcome = Outcome(
            command_id=item.command_id,
            name=type(item.command).__name__,
            received_at=self.loaded.now,
            error=refusal,
            dry_run=item.dry_run,
        )
        self.results[item.command_id] = _always(outcome)

    def _subject(self, item: Envelope) -> str:
        """The first account of a refused command, if it is there."""
        for account_id in item.command.account_ids[:1]:
            state = self.accounts.get(account_id)
            if state is not None and state.version:
                return account_id
        return ""

    def _fail(self, item: Envelope, error: Exception) -> None:
        """Answer with `error` and record nothing: the same key may be tried again."""
        self.first_of.pop(item.identity, None)
        self.results[item.command_id] = _always(error)


class _Overlay(dict[str, Account]):
    """Accounts as an atomic batch has changed them so far, over those of the plan."""

    def __init__(self, plan: Plan, trial: dict[str, Account]) -> None:
        super().__init__()
        self.plan = plan
        self.trial = trial

    def __contains__(self, account_id: object) -> bool:
        return account_id in self.trial or account_id in self.plan.accounts

    def __getitem__(self, account_id: str) -> Account:
        return self.trial.get(account_id) or self.plan.accounts[account_id]


def _always(result: Result) -> Callable[[store.Appended], Result]:
    return lambda _: result


def _key_reused(item: Envelope) -> IdempotencyKeyReusedError:
    return IdempotencyKeyReusedError(
        f'the key "{item.key[:64]}" was used for another command: use a new key',
        field="Idempotency-Key",
    )


def _batch_refused(item: Envelope, refusal: Rejected) -> BatchRefused:
    return BatchRefused(
        f"another command of the batch was refused: {refusal.detail}",
        refused_key=item.key,
        refused_code=refusal.code,
    )


def _as_replay(result: Result) -> Result:
    if isinstance(result, Outcome):
        return msgspec.structs.replace(result, replayed=True)
    return result


def outcome_of(command_id: str) -> Outcome:
    """The outcome of a recorded command, exactly as it was first answered.

    Raises:
        NotFoundError: no such command.
    """
    row = Command.objects.filter(pk=command_id).first()
    if row is None:
        raise NotFoundError(f"command {command_id} does not exist")
    outcome = Outcome(command_id=str(row.id), name=row.name, received_at=row.received_at)
    if row.error is not None:
        return msgspec.structs.replace(outcome, error=rejected_from_record(row.error))
    first, last = int(row.first_position or 0), int(row.last_position or 0)
    recorded = store.read_range(first, last)
    versions = {item.account_id: item.version for item in recorded}
    return msgspec.structs.replace(
        outcome,
        recorded_at=recorded[0].recorded_at,
        first_position=first,
        last_position=last,
        events=[
            OutcomeEvent(
                account_id=item.account_id,
                version=item.version,
                type=item.type,
                position=item.position,
            )
            for item in recorded
        ],
        accounts=[history.fold_to(account_id, version) for account_id, version in versions.items()],
    )
