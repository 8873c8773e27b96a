"""Four eyes: a command that one person proposes and another approves.

What is proposed and decided are append-only rows; that the second person is another one is a
constraint of the database. An approved command is sent as a program of its own (`SENDER`), keyed by
the proposal, so that it happens once however often it is sent; the log names both people, and the
proposal as its cause. The decision comes first and the command after it: a process that ends in
between leaves an approval, and `resume` sends what it asked for.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from django.db import IntegrityError, models, transaction
from django.db.models.functions import Cast

from ledger import access, history, privacy, store
from ledger.api.serializers import command_of
from ledger.domain import commands as c
from ledger.errors import (
    ConflictError,
    ForbiddenError,
    IdempotencyKeyReusedError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from ledger.handlers import Envelope, Outcome, envelope
from ledger.models import Command, Decision, Proposal
from ledger.service import bus

SENDER = "approval"
REASON_MAX = 500
NAMESPACE = UUID("6f0c7c0e-3a53-4f0b-9a5c-0f6f3f6b1d11")
RESUME_AFTER = timedelta(seconds=10)


def propose(
    user: Any, name: str, body: Mapping[str, Any], ids: Mapping[str, str], *, key: str, reason: str
) -> Proposal:
    """Keep a command for a second person; sent again with the same `key` it is the same proposal.

    Raises:
        LedgerError: the command is not valid, or not one that `user` may propose.
    """
    command, _ = command_of(name, dict(body), dict(ids))
    access.check_command(user, command, is_approved=True)
    accounts = _accounts(command)
    subject = next(iter(accounts), "")

    def sealed(text: str) -> str:
        return privacy.seal(subject, text) if subject else text

    proposal = Proposal(
        id=uuid5(NAMESPACE, f"{user.pk}/{key}"),
        name=name,
        body={
            field: sealed(value) if field in privacy.PERSONAL else value
            for field, value in body.items()
        },
        ids=dict(ids),
        account_id=next(iter(accounts), None),
        reason=sealed(reason[:REASON_MAX]),
        seen=_seen(accounts),
        made_by=user.get_username(),
    )
    with suppress(IntegrityError), transaction.atomic():  # sent twice: the first one stands
        proposal.save(force_insert=True)
    known = find(str(proposal.id))
    if (known.name, privacy.revealed(known.body), known.ids) != (name, dict(body), proposal.ids):
        raise IdempotencyKeyReusedError("this key was used for another proposal", field="key")
    return known


def find(proposal_id: str) -> Proposal:
    """The proposal, with its decision if there is one.

    Raises:
        NotFoundError: there is none.
    """
    found = Proposal.objects.select_related("decision").filter(pk=proposal_id).first()
    if found is None:
        raise NotFoundError(f"proposal {proposal_id} does not exist")
    return found


def decision_of(proposal: Proposal) -> Decision | None:
    """What the second person said, if anything yet."""
    return getattr(proposal, "decision", None)


def command_for(proposal: Proposal) -> c.Command:
    """The command that was proposed."""
    command, _ = command_of(proposal.name, privacy.revealed(proposal.body), proposal.ids)
    return command


def try_now(proposal: Proposal) -> Outcome:
    """What it would do to the accounts as they are: the real decision, nothing stored."""
    return bus.send_one(_envelope(proposal, command_for(proposal), "nobody yet", dry_run=True))


def decide(user: Any, proposal: Proposal, *, approved: bool, note: str) -> Outcome | None:
    """Approve, and send the command; or reject.

    Raises:
        ForbiddenError: the role does not allow it, or it is the maker.
        ConflictError: somebody was faster.
        InvalidInputError: rejected without saying why.
    """
    command = command_for(proposal)
    access.check_command(user, command, is_approved=True)
    name = user.get_username()
    if name == proposal.made_by:
        raise ForbiddenError("whoever proposed it may not decide it: ask somebody else")
    if not approved and not note.strip():
        raise InvalidInputError("say why it is rejected", field="note")
    decision = Decision(
        proposal_id=proposal.pk,
        made_by=proposal.made_by,
        approved=approved,
        note=note.strip()[:REASON_MAX],
        seen=_seen(_accounts(command)),
        decided_by=name,
    )
    try:
        with transaction.atomic():
            decision.save(force_insert=True)
    except IntegrityError as error:
        raise ConflictError("it was decided already") from error
    return _send(proposal, decision) if approved else None


def outcome_of(proposal: Proposal) -> Command | None:
    """The record of the command that came of it."""
    return Command.objects.filter(sender=SENDER, idempotency_key=str(proposal.pk)).first()


def _unsent() -> models.QuerySet[Decision]:
    """What was approved a while ago and has no record of a command."""
    sent = Command.objects.filter(
        sender=SENDER,
        idempotency_key=Cast(models.OuterRef("proposal_id"), models.TextField()),
    )
    return Decision.objects.filter(
        ~models.Exists(sent), approved=True, decided_at__lt=store.clock() - RESUME_AFTER
    )


def count_waiting() -> int:
    """How many proposals wait for a second person."""
    return Proposal.objects.filter(decision=None).count()


def count_unsent() -> int:
    """How many approvals wait for their command to be sent."""
    return _unsent().count()


def resume() -> int:
    """Send what was approved a while ago and was not sent; how many that were."""
    found = list(_unsent().select_related("proposal")[:100])
    for decision in found:
        _send(decision.proposal, decision)
    return len(found)


def _send(proposal: Proposal, decision: Decision) -> Outcome:
    return bus.send_one(_envelope(proposal, command_for(proposal), decision.decided_by))


def _envelope(proposal: Proposal, command: c.Command, checker: str, **options: Any) -> Envelope:
    return envelope(
        command,
        sender=SENDER,
        key=str(proposal.pk),
        actor=f"{proposal.made_by}, approved by {checker}",
        channel="approval",
        causation_id=str(proposal.pk),
        request={"name": proposal.name, "body": proposal.body, "ids": proposal.ids},
        **options,
    )


def _accounts(command: c.Command) -> list[str]:
    if isinstance(command, c.ReverseTransaction):
        return store.accounts_of_command(command.transaction_id)
    return list(command.account_ids)


def _seen(account_ids: list[str]) -> dict[str, dict[str, int]]:
    found = {}
    for account_id in account_ids:
        try:
            account, _ = history.current(account_id)
        except LedgerError:
            continue
        found[account_id] = {"version": account.version, "balance": account.balance}
    return found
