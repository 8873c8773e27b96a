"""The state of one account and `evolve`, the only place where an event becomes a balance.

`evolve` is total: a recorded fact is never refused. The command path, snapshots, projections, time
travel and rebuild all call it. Changing this file changes `ledger.codec.STATE_SCHEMA`, so states
made by the older logic are no longer trusted (DESIGN section 9).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from ledger.domain import events as e

Status = Literal["none", "open", "frozen", "closed"]


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation: `amount` is what is still held, in minor units."""

    amount: int
    counterpart: str
    expires_at: datetime | None = None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account after `version` events. ``status`` is ``none`` before it was opened."""

    account_id: str
    version: int = 0
    status: Status = "none"
    holder: str = ""
    owner: str = ""
    reference: str = ""
    currency: str = ""
    balance: int = 0
    held: int = 0
    overdraft_limit: int = 0
    transactions: int = 0
    holds: Mapping[str, Hold] = {}
    next_expiry: datetime | None = None

    @property
    def available(self) -> int:
        """Balance less every recorded hold, plus the overdraft limit, in minor units."""
        return self.balance - self.held + self.overdraft_limit

    def available_at(self, now: datetime) -> int:
        """As `available`, without holds whose time has passed by `now`, recorded or not."""
        return self.available + sum(hold.amount for _, hold in self.due_holds(now))

    def due_holds(self, now: datetime) -> list[tuple[str, Hold]]:
        """Holds with ``expires_at <= now`` whose expiry is not recorded, oldest expiry first."""
        due = [
            (hold_id, hold)
            for hold_id, hold in self.holds.items()
            if hold.expires_at is not None and hold.expires_at <= now
        ]
        return sorted(due, key=lambda item: (item[1].expires_at, item[0]))


def _with_hold(state: Account, hold_id: str, hold: Hold | None) -> Account:
    """The account with one hold set, or taken away; `held` and `next_expiry` follow."""
    holds = {key: kept for key, kept in state.holds.items() if key != hold_id}
    if hold is not None and hold.amount:
        holds[hold_id] = hold
    expiries = [kept.expires_at for kept in holds.values() if kept.expires_at is not None]
    return replace(
        state,
        holds=holds,
        held=sum(kept.amount for kept in holds.values()),
        next_expiry=min(expiries, default=None),
    )


def evolve(state: Account, event: e.Event) -> Account:  # noqa: C901  (one case per event)
    """Return the account after `event`. Total over every event type of this code."""
    version = state.version + 1
    match event:
        case (
            e.MoneyDeposited()
            | e.MoneyWithdrawn()
            | e.TransferSent()
            | e.TransferReceived()
            | e.TransactionReversed()
            | e.BalanceAdjusted()
        ):
            return replace(
                state,
                version=version,
                balance=state.balance + event.delta,
                transactions=state.transactions + 1,
            )
        case e.HoldPlaced():
            hold = Hold(
                amount=event.amount, counterpart=event.counterpart, expires_at=event.expires_at
            )
            return _with_hold(replace(state, version=version), event.hold_id, hold)
        case e.HoldCaptured():
            hold = state.holds[event.hold_id]
            captured = replace(
                state,
                version=version,
                balance=state.balance + event.delta,
                transactions=state.transactions + 1,
            )
            left = replace(hold, amount=0 if event.final else hold.amount - event.amount)
            return _with_hold(captured, event.hold_id, left)
        case e.HoldReleased() | e.HoldExpired():
            return _with_hold(replace(state, version=version), event.hold_id, None)
        case e.AccountOpened():
            return replace(
                state,
                version=version,
                status="open",
                holder=event.holder,
                owner=event.owner,
                reference=event.reference,
                currency=event.currency,
                overdraft_limit=event.overdraft_limit,
            )
        case e.AccountFrozen():
            return replace(state, version=version, status="frozen")
        case e.AccountUnfrozen():
            return replace(state, version=version, status="open")
        case e.OverdraftLimitSet():
            return replace(state, version=version, overdraft_limit=event.overdraft_limit)
        case e.HolderChanged():
            return replace(state, version=version, holder=event.holder, owner=event.owner)
        case e.AccountClosed():
            return replace(state, version=version, status="closed")
        case e.HolderErased():
            return replace(state, version=version, holder="", owner="")
        case _:
            raise TypeError(f"evolve does not know {type(event).__name__}: add a case for it")


def fold(state: Account, events: Iterable[e.Event]) -> Account:
    """`evolve` over `events`, in order."""
    for event in events:
        state = evolve(state, event)
    return state
