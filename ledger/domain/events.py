"""What happened: frozen, keyword-only, past tense; and the registry of event types.

Amounts are positive integers of minor units unless a field says signed. An event carries what was
decided, not what can be folded: no running balance. `delta` is what it does to the account's
balance; `outside` is the counterpart beyond the ledger that the money came from or went to, empty
when it stayed inside, so that per currency balances and outside always sum to zero.

A payload class is never changed once released: raise `schema_version`, write an upcaster
(`ledger.upcasters`) and keep an example of the old version in tests/golden.
"""

from datetime import datetime
from typing import ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every payload. ``kind`` is its plain word in pages and summaries."""

    schema_version: ClassVar[int] = 1
    kind: ClassVar[str] = ""

    @property
    def delta(self) -> int:
        """Signed change of the balance in minor units."""
        return 0

    @property
    def outside(self) -> str:
        """The counterpart outside the ledger; empty when no money crossed its border."""
        return ""


class AccountOpened(Event, frozen=True, kw_only=True):
    """The first event of every account."""

    kind = "opened"
    holder: str
    currency: str
    owner: str = ""
    reference: str = ""
    overdraft_limit: int = 0


class MoneyDeposited(Event, frozen=True, kw_only=True):
    """Money entered from `counterpart`."""

    kind = "deposit"
    transaction_id: str
    amount: int
    currency: str
    counterpart: str
    memo: str = ""

    @property
    def delta(self) -> int:
        """Plus the amount."""
        return self.amount

    @property
    def outside(self) -> str:
        """Where it came from."""
        return self.counterpart


class MoneyWithdrawn(Event, frozen=True, kw_only=True):
    """Money left to `counterpart`."""

    kind = "withdrawal"
    transaction_id: str
    amount: int
    currency: str
    counterpart: str
    memo: str = ""

    @property
    def delta(self) -> int:
        """Minus the amount."""
        return -self.amount

    @property
    def outside(self) -> str:
        """Where it went."""
        return self.counterpart


class TransferSent(Event, frozen=True, kw_only=True):
    """The sender's leg of a transfer."""

    kind = "transfer out"
    transaction_id: str
    amount: int
    currency: str
    to_account_id: str
    credited_amount: int
    credited_currency: str
    memo: str = ""

    @property
    def delta(self) -> int:
        """Minus the amount."""
        return -self.amount

    @property
    def outside(self) -> str:
        """``exchange`` when the other leg is in another currency."""
        return "" if self.credited_currency == self.currency else "exchange"


class TransferReceived(Event, frozen=True, kw_only=True):
    """The receiver's leg of a transfer."""

    kind = "transfer in"
    transaction_id: str
    amount: int
    currency: str
    from_account_id: str
    sent_amount: int
    sent_currency: str
    memo: str = ""

    @property
    def delta(self) -> int:
        """Plus the amount."""
        return self.amount

    @property
    def outside(self) -> str:
        """``exchange`` when the other leg is in another currency."""
        return "" if self.sent_currency == self.currency else "exchange"


class HoldPlaced(Event, frozen=True, kw_only=True):
    """An amount was reserved; the balance is as before."""

    kind = "hold"
    hold_id: str
    amount: int
    currency: str
    counterpart: str
    expires_at: datetime | None = None
    memo: str = ""


class HoldCaptured(Event, frozen=True, kw_only=True):
    """Held money left to the hold's counterpart; the rest stays held, or is freed if it was `final`."""

    schema_version = 2
    kind = "capture"
    transaction_id: str
    hold_id: str
    amount: int
    currency: str
    counterpart: str
    final: bool
    memo: str = ""

    @property
    def delta(self) -> int:
        """Minus the amount."""
        return -self.amount

    @property
    def outside(self) -> str:
        """Where it went."""
        return self.counterpart


class HoldReleased(Event, frozen=True, kw_only=True):
    """What was still held was given back."""

    kind = "release"
    hold_id: str
    amount: int


class HoldExpired(Event, frozen=True, kw_only=True):
    """What was still held became free because its time had passed."""

    kind = "expiry"
    hold_id: str
    amount: int


class TransactionReversed(Event, frozen=True, kw_only=True):
    """A compensating entry for `reverses`; `amount` is signed, as the balance sees it."""

    kind = "reversal"
    transaction_id: str
    reverses: str
    amount: int
    currency: str
    counterpart: str
    reason: str

    @property
    def delta(self) -> int:
        """The signed amount."""
        return self.amount

    @property
    def outside(self) -> str:
        """The counterpart of the reversed leg."""
        return self.counterpart


class BalanceAdjusted(Event, frozen=True, kw_only=True):
    """A supervisor corrected the balance by a signed `amount`.

    `corrects` is the transaction that was wrong, empty when none was named.
    """

    schema_version = 2
    kind = "adjustment"
    transaction_id: str
    amount: int
    currency: str
    counterpart: str
    corrects: str
    reason: str

    @property
    def delta(self) -> int:
        """The signed amount."""
        return self.amount

    @property
    def outside(self) -> str:
        """Always ``adjustment``."""
        return self.counterpart


class AccountFrozen(Event, frozen=True, kw_only=True):
    """Money stopped moving."""

    kind = "freeze"
    reason: str


class AccountUnfrozen(Event, frozen=True, kw_only=True):
    """Money moves again."""

    kind = "unfreeze"
    reason: str


class OverdraftLimitSet(Event, frozen=True, kw_only=True):
    """The balance may fall to minus `overdraft_limit`."""

    schema_version = 2
    kind = "limit"
    overdraft_limit: int


class HolderChanged(Event, frozen=True, kw_only=True):
    """Somebody else holds the account."""

    kind = "holder"
    holder: str
    owner: str = ""


class AccountClosed(Event, frozen=True, kw_only=True):
    """The last event of an account."""

    kind = "close"
    reason: str = ""


class HolderErased(Event, frozen=True, kw_only=True):
    """The holder's personal data was erased, on the `ground` given; the key to it is destroyed."""

    kind = "erase"
    ground: str


EVENT_TYPES: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        AccountOpened,
        MoneyDeposited,
        MoneyWithdrawn,
        TransferSent,
        TransferReceived,
        HoldPlaced,
        HoldCaptured,
        HoldReleased,
        HoldExpired,
        TransactionReversed,
        BalanceAdjusted,
        AccountFrozen,
        AccountUnfrozen,
        OverdraftLimitSet,
        HolderChanged,
        AccountClosed,
        HolderErased,
    )
}
"""Stored type name to payload class. A name is never reused or renamed."""
