"""Whether a user may send a command or see an account. Object-level rules live here alone."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings
from django.db.models import Q, QuerySet

from ledger import privacy
from ledger.domain import commands as c
from ledger.domain.currencies import EXPONENTS
from ledger.errors import (
    AccountNotFound,
    ApprovalNeededError,
    ForbiddenError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from ledger.handlers import Envelope, Outcome, envelope
from ledger.models import Account
from ledger.roles import actions_of


def needs_approval(command: c.Command) -> bool:
    """Whether people need a second person for `command` (LEDGER_APPROVAL); programs do not."""
    above = settings.LEDGER_APPROVAL.get(type(command).__name__)
    if above is None:
        return False
    amount = getattr(command, "amount", None)
    currency = getattr(command, "currency", "")
    if amount is None or not currency:
        return True
    return bool(abs(amount) > above * 10 ** EXPONENTS[currency])


def check_command(user: Any, command: c.Command, *, is_approved: bool = False) -> None:
    """Raise unless `user` may send `command`; with a second person's approval if it `is_approved`.

    A customer may transfer from an own account, and learns nothing about others.

    Raises:
        ForbiddenError: the role does not allow it.
        NotFoundError: a customer named an account that is not theirs.
        ApprovalNeededError: a second person has to approve it.
    """
    actions = actions_of(user)
    if command.action in actions:
        _check_backdating(actions, command)
        if "staff" in actions and not is_approved and needs_approval(command):
            raise ApprovalNeededError(
                f"{type(command).__name__} of this size needs a second person: submit it in the "
                "back office, and let somebody else approve it"
            )
        return
    if isinstance(command, c.Transfer) and "transfer_own" in actions:
        check_account(user, command.from_account_id)
        return
    raise ForbiddenError(f'your role does not allow "{command.action}"')


def _check_backdating(actions: frozenset[str], command: c.Command) -> None:
    """A past effective time takes a role that may, and of people a reason."""
    if getattr(command, "effective_at", None) is None:
        return
    if "backdate" not in actions:
        raise ForbiddenError("your role does not allow a past effective time", field="effective_at")
    name = next((name for name in ("reason", "memo") if hasattr(command, name)), "")
    if "staff" in actions and name and not getattr(command, name).strip():
        raise InvalidInputError("say why it is back-dated", field=name)


def sender_of(user: Any) -> str:
    """What scopes the idempotency keys of `user`."""
    return f"user:{user.pk}"


def envelope_for(
    user: Any,
    command: c.Command,
    said: Mapping[str, Any],
    *,
    key: str,
    channel: str,
    **options: Any,
) -> Envelope:
    """Wrap a command as sent by `user`; `said` is what they sent, for the fingerprint.

    The caller has checked that they may (`check_command`).
    """
    return envelope(
        command,
        sender=sender_of(user),
        key=key,
        actor=user.get_username(),
        channel=channel,
        request=msgspec.to_builtins(said),
        **options,
    )


def check_account(user: Any, account_id: str) -> None:
    """Raise `NotFoundError` unless `user` may see the account; unknown and foreign look alike."""
    actions = actions_of(user)
    if "read" in actions:
        return
    owned = "read_own" in actions and Account.objects.filter(
        pk=account_id, owner=user.get_username()
    ).exclude(owner="")
    if not owned or not owned.exists():
        raise NotFoundError(f"account {account_id} does not exist")


def held_by(rows: QuerySet[Account], name: str) -> QuerySet[Account]:
    """Those of `rows` whose holder is exactly `name`, whether it is sealed or not."""
    sealed = privacy.named(name).values_list("id", "holder")
    ids = [account_id for account_id, holder in sealed if privacy.reveal(holder) == name]
    return rows.filter(Q(holder=name) | Q(pk__in=ids))


def holder_begins(rows: QuerySet[Account], text: str) -> QuerySet[Account]:
    """Those of `rows` whose holder begins with `text`, in any case, whether it is sealed or not."""
    if not privacy.is_on():
        return rows.extra(where=["lower(holder) LIKE %s"], params=[prefix_pattern(text)])
    plain = Account.objects.extra(where=["lower(holder) LIKE %s"], params=[prefix_pattern(text)])
    sealed = privacy.named(text)
    return rows.filter(Q(pk__in=plain.values("pk")) | Q(pk__in=sealed.values("pk")))


def prefix_pattern(text: str) -> str:
    """For ``lower(column) LIKE``: what begins with `text`, in any case, taken literally."""
    return re.sub(r"([\\%_])", r"\\\1", text.lower()) + "%"


def visible(user: Any, outcome: Outcome) -> Outcome:
    """The outcome without accounts, and their events, that `user` may not see."""
    if "read" in actions_of(user):
        return outcome
    own = [account for account in outcome.accounts if account.owner == user.get_username()]
    shown = {account.account_id for account in own}
    return msgspec.structs.replace(
        outcome,
        accounts=own,
        events=[event for event in outcome.events if event.account_id in shown],
    )


def hide_refusal(user: Any, error: LedgerError, receiver: str) -> LedgerError:
    """What a customer may learn of a refusal: nothing about the account of the `receiver`."""
    if "read" in actions_of(user) or not receiver or error.facts.get("account_id") != receiver:
        return error
    return AccountNotFound("the receiving account cannot take this", field="to_account_id")
