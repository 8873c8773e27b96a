"""What callers may ask for: frozen, keyword-only, imperative.

Amounts are positive integers of minor units; times are aware UTC datetimes. A command says what is
wished, never what is known (no versions, no balances), and can be refused.
"""

from datetime import datetime
from typing import Any, ClassVar

import msgspec


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base. ``action`` is the permission that sending it needs (`ledger.roles`)."""

    action: ClassVar[str] = ""

    @property
    def account_ids(self) -> tuple[str, ...]:
        """The accounts whose state the decision needs, in the order of the command's words."""
        account_id: str = getattr(self, "account_id", "")
        return (account_id,) if account_id else ()

    @property
    def undoes(self) -> str:
        """The transaction that the decision needs to know; empty for none."""
        return ""


class OpenAccount(Command, frozen=True, kw_only=True):
    """Open an account. ``owner`` is the user name of the customer who may see it."""

    action = "open"
    account_id: str
    holder: str
    currency: str
    owner: str = ""
    reference: str = ""
    overdraft_limit: int = 0
    effective_at: datetime | None = None


class Deposit(Command, frozen=True, kw_only=True):
    """Money enters from the outside `counterpart`."""

    action = "deposit"
    account_id: str
    amount: int
    currency: str
    counterpart: str = "cash"
    memo: str = ""
    effective_at: datetime | None = None


class Withdraw(Command, frozen=True, kw_only=True):
    """Money leaves to the outside `counterpart`."""

    action = "withdraw"
    account_id: str
    amount: int
    currency: str
    counterpart: str = "cash"
    memo: str = ""
    effective_at: datetime | None = None


class Transfer(Command, frozen=True, kw_only=True):
    """Money moves between two accounts; other currencies need what is credited, explicitly."""

    action = "transfer"
    from_account_id: str
    to_account_id: str
    amount: int
    currency: str
    credited_amount: int | None = None
    credited_currency: str | None = None
    memo: str = ""
    effective_at: datetime | None = None

    @property
    def account_ids(self) -> tuple[str, ...]:
        """Sender, then receiver."""
        return (self.from_account_id, self.to_account_id)


class PlaceHold(Command, frozen=True, kw_only=True):
    """Reserve an amount, until `expires_at` if given (expired at and after that instant)."""

    action = "hold"
    account_id: str
    amount: int
    currency: str
    counterpart: str = "cash"
    expires_at: datetime | None = None
    memo: str = ""


class CaptureHold(Command, frozen=True, kw_only=True):
    """Take held money to the hold's counterpart: all that is left, or `amount`.

    What then is left stays held, unless this capture is `final`.
    """

    action = "hold"
    account_id: str
    hold_id: str
    amount: int | None = None
    final: bool = False
    memo: str = ""


class ReleaseHold(Command, frozen=True, kw_only=True):
    """Give back all that is still held."""

    action = "hold"
    account_id: str
    hold_id: str


class ExpireHolds(Command, frozen=True, kw_only=True):
    """Record the expiry of every hold that is due (sent by the ledger itself)."""

    action = "system"
    account_id: str


class ReverseTransaction(Command, frozen=True, kw_only=True):
    """Compensate an earlier transaction, at most once, in whole or up to `amount`."""

    action = "reverse"
    transaction_id: str
    reason: str
    amount: int | None = None

    @property
    def undoes(self) -> str:
        """The transaction to reverse."""
        return self.transaction_id


class AdjustBalance(Command, frozen=True, kw_only=True):
    """Correct a balance by a signed amount against the outside counterpart `adjustment`.

    `corrects` may name the transaction of this account that was wrong.
    """

    action = "adjust"
    account_id: str
    amount: int
    currency: str
    reason: str
    corrects: str = ""
    effective_at: datetime | None = None

    @property
    def undoes(self) -> str:
        """The transaction that was wrong."""
        return self.corrects


class FreezeAccount(Command, frozen=True, kw_only=True):
    """Stop every movement of money."""

    action = "freeze"
    account_id: str
    reason: str


class UnfreezeAccount(Command, frozen=True, kw_only=True):
    """Let money move again."""

    action = "freeze"
    account_id: str
    reason: str


class SetOverdraftLimit(Command, frozen=True, kw_only=True):
    """Allow the balance down to minus `limit`."""

    action = "set_limit"
    account_id: str
    limit: int
    currency: str


class ChangeHolder(Command, frozen=True, kw_only=True):
    """Change who holds the account, and which customer may see it."""

    action = "change_holder"
    account_id: str
    holder: str
    owner: str = ""


class CloseAccount(Command, frozen=True, kw_only=True):
    """Close for good: only at balance zero and without holds."""

    action = "close"
    account_id: str
    reason: str = ""


class EraseHolder(Command, frozen=True, kw_only=True):
    """Erase the holder's personal data for good: only of a closed account, and once.

    `ground` says on what legal basis or request, without naming anybody.
    """

    action = "erase"
    account_id: str
    ground: str


COMMANDS: dict[str, type[Command]] = {
    cls.__name__: cls
    for cls in (
        OpenAccount,
        Deposit,
        Withdraw,
        Transfer,
        PlaceHold,
        CaptureHold,
        ReleaseHold,
        ExpireHolds,
        ReverseTransaction,
        AdjustBalance,
        FreezeAccount,
        UnfreezeAccount,
        SetOverdraftLimit,
        ChangeHolder,
        CloseAccount,
        EraseHolder,
    )
}


def body_of(command: Command) -> dict[str, Any]:
    """The command as plain JSON values, without unset fields: stored and fingerprinted."""
    plain: dict[str, Any] = msgspec.to_builtins(command)
    return {
        name: value
        for name, value in plain.items()
        if value is not None and value != "" and value is not False
    }
