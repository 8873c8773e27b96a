"""The business rules: what a command does to the accounts as they are, or why it may not.

Pure: the accounts, the time and the transaction to undo come in as arguments. Rules are checked
in the order in which they are written; the first that fails is the answer.

Written rules:
- A frozen account moves no money in or out; staff may still release holds, reverse and adjust.
- A closed account accepts nothing, reversals included.
- Funds are checked on the recorded axis: back-dating an entry does not re-check past days.
- A hold is expired from the instant `expires_at` on, whether or not the sweep has run; the expiry
  is recorded by the next command that needs the money, or by the sweep.
- Nothing can be back-dated into a closed period; what is recorded now counts now.
- A reversal needs the money to be there; it is refused rather than clamped.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from ledger import errors
from ledger.domain import commands as c
from ledger.domain import events as e
from ledger.domain.money import AMOUNT_MAX, format_amount
from ledger.domain.state import Account, evolve


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that a reversal or adjustment names: its legs, and the reversal it already has."""

    legs: Sequence[tuple[str, e.Event]]
    reversed_by: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs besides the command.

    `accounts` holds every account of the command, unopened ones as version 0; `command_id` becomes
    the transaction or hold id; `now` is the database's clock.
    """

    command_id: str
    now: datetime
    accounts: Mapping[str, Account]
    original: Original | None = None
    closed_through: datetime | None = None


Decided = tuple[str, e.Event, datetime]
"""Account id, event, effective time."""


def decide(command: c.Command, facts: Facts) -> list[Decided]:
    """Return the events that `command` causes, at least one.

    Raises:
        Rejected: a subclass per rule; nothing may be recorded but the refusal.
    """
    effective_at = _effective_at(command, facts)
    match command:
        case c.OpenAccount():
            return [(command.account_id, _open(command, facts), effective_at)]
        case c.Deposit():
            account = _moving(facts, command.account_id)
            _check_currency(account, command.currency)
            _check_amount(command.amount)
            _check_balance(account, command.amount)
            deposited = e.MoneyDeposited(
                transaction_id=facts.command_id,
                amount=command.amount,
                currency=command.currency,
                counterpart=command.counterpart,
                memo=command.memo,
            )
            return [(command.account_id, deposited, effective_at)]
        case c.Withdraw():
            account = _moving(facts, command.account_id)
            _check_currency(account, command.currency)
            _check_amount(command.amount)
            expired = _take(account, command.amount, facts.now)
            withdrawn = e.MoneyWithdrawn(
                transaction_id=facts.command_id,
                amount=command.amount,
                currency=command.currency,
                counterpart=command.counterpart,
                memo=command.memo,
            )
            return [*expired, (command.account_id, withdrawn, effective_at)]
        case c.Transfer():
            return _transfer(command, facts, effective_at)
        case c.PlaceHold() | c.CaptureHold() | c.ReleaseHold() | c.ExpireHolds():
            return _hold(command, facts)
        case c.ReverseTransaction():
            return _reverse(command, facts)
        case c.AdjustBalance():
            return _adjust(command, facts, effective_at)
        case c.EraseHolder():
            return [(command.account_id, _erase(command, facts), effective_at)]
        case _:
            return [(command.account_ids[0], _administer(command, facts), effective_at)]


def _effective_at(command: c.Command, facts: Facts) -> datetime:
    now, closed = facts.now, facts.closed_through
    effective_at: datetime | None = getattr(command, "effective_at", None)
    if effective_at is None:
        return now
    if closed is not None and effective_at <= closed:
        raise errors.PeriodClosed(
            f"effective_at {effective_at.isoformat()} lies in a period that is closed, through "
            f"{closed.isoformat()}: use a later effective time",
            field="effective_at",
            closed_through=closed.isoformat(),
        )
    if effective_at > now:
        raise errors.EffectiveInFuture(
            f"effective_at {effective_at.isoformat()} lies after now, {now.isoformat()}: "
            "it may lie in the past, never in the future",
            field="effective_at",
        )
    return effective_at


def _existing(facts: Facts, account_id: str) -> Account:
    account = facts.accounts[account_id]
    if account.status == "none":
        raise errors.AccountNotFound(
            f"account {account_id} does not exist: open it first",
            field="account_id",
            account_id=account_id,
        )
    if account.status == "closed":
        raise errors.AccountClosed(
            f"account {account_id} is closed and accepts nothing", account_id=account_id
        )
    return account


def _moving(facts: Facts, account_id: str) -> Account:
    account = _existing(facts, account_id)
    if account.status == "frozen":
        raise errors.AccountFrozen(
            f"account {account_id} is frozen: unfreeze it before money moves",
            account_id=account_id,
        )
    return account


def _check_currency(account: Account, currency: str, *, field: str = "currency") -> None:
    if currency != account.currency:
        raise errors.CurrencyMismatch(
            f"account {account.account_id} is in {account.currency}, not {currency}",
            field=field,
            account_id=account.account_id,
            account_currency=account.currency,
        )


def _check_amount(amount: int) -> None:
    if not 1 <= amount <= AMOUNT_MAX:
        raise errors.AmountOutOfRange(
            f"the amount must be 1 to {AMOUNT_MAX} minor units", field="amount"
        )


def _check_balance(account: Account, delta: int) -> None:
    if abs(account.balance + delta) > AMOUNT_MAX:
        most = format_amount(AMOUNT_MAX, account.currency)
        raise errors.BalanceOutOfRange(
            f"the balance of {account.account_id} would pass {most} {account.currency}",
            field="amount",
            account_id=account.account_id,
        )


def _expiries(account: Account, now: datetime) -> list[Decided]:
    return [
        (
            account.account_id,
            e.HoldExpired(hold_id=hold_id, amount=hold.amount),
            hold.expires_at or now,
        )
        for hold_id, hold in account.due_holds(now)
    ]


def _take(account: Account, amount: int, now: datetime) -> list[Decided]:
    """Check that `amount` is available; return the expiries that must be recorded before."""
    available = account.available_at(now)
    if amount > available:
        raise errors.InsufficientFunds(
            f"{format_amount(amount, account.currency)} {account.currency} is more than the "
            f"available {format_amount(available, account.currency)}",
            field="amount",
            account_id=account.account_id,
            available=format_amount(available, account.currency),
            currency=account.currency,
        )
    _check_balance(account, -amount)
    return _expiries(account, now) if amount > account.available else []


def _open(command: c.OpenAccount, facts: Facts) -> e.AccountOpened:
    if facts.accounts[command.account_id].status != "none":
        raise errors.AccountAlreadyOpen(
            f"account {command.account_id} is already open: the id or reference is taken",
            field="reference" if command.reference else "account_id",
            account_id=command.account_id,
        )
    if not 0 <= command.overdraft_limit <= AMOUNT_MAX:
        raise errors.AmountOutOfRange("the limit is out of range", field="overdraft_limit")
    return e.AccountOpened(
        holder=command.holder,
        currency=command.currency,
        owner=command.owner,
        reference=command.reference,
        overdraft_limit=command.overdraft_limit,
    )


def _transfer(command: c.Transfer, facts: Facts, effective_at: datetime) -> list[Decided]:
    if command.from_account_id == command.to_account_id:
        raise errors.SameAccount(
            "a transfer needs two different accounts",
            field="to_account_id",
            account_id=command.to_account_id,
        )
    sender = _moving(facts, command.from_account_id)
    receiver = _moving(facts, command.to_account_id)
    _check_currency(sender, command.currency)
    credited_currency = command.credited_currency or command.currency
    _check_currency(
        receiver,
        credited_currency,
        field="credited_currency" if command.credited_currency else "currency",
    )
    if command.credited_amount is not None:
        credited = command.credited_amount
    elif credited_currency == command.currency:
        credited = command.amount
    else:
        raise errors.CurrencyMismatch(
            "a transfer into another currency must say the credited_amount",
            field="credited_amount",
        )
    if credited_currency == command.currency and credited != command.amount:
        raise errors.CurrencyMismatch(
            "within one currency the credited_amount must equal the amount",
            field="credited_amount",
        )
    _check_amount(command.amount)
    _check_amount(credited)
    expired = _take(sender, command.amount, facts.now)
    _check_balance(receiver, credited)
    sent = e.TransferSent(
        transaction_id=facts.command_id,
        amount=command.amount,
        currency=command.currency,
        to_account_id=command.to_account_id,
        credited_amount=credited,
        credited_currency=credited_currency,
        memo=command.memo,
    )
    received = e.TransferReceived(
        transaction_id=facts.command_id,
        amount=credited,
        currency=credited_currency,
        from_account_id=command.from_account_id,
        sent_amount=command.amount,
        sent_currency=command.currency,
        memo=command.memo,
    )
    return [
        *expired,
        (command.from_account_id, sent, effective_at),
        (command.to_account_id, received, effective_at),
    ]


def _hold(
    command: c.PlaceHold | c.CaptureHold | c.ReleaseHold | c.ExpireHolds, facts: Facts
) -> list[Decided]:
    match command:
        case c.PlaceHold():
            return _place(command, facts)
        case c.ExpireHolds():
            expired = _expiries(_existing(facts, command.account_id), facts.now)
            if not expired:
                raise errors.NothingToDo("no hold of this account is due")
            return expired
        case c.ReleaseHold():
            account = _existing(facts, command.account_id)
            amount = _find_hold(account, command.hold_id, facts.now)[0]
            released = e.HoldReleased(hold_id=command.hold_id, amount=amount)
            return [(account.account_id, released, facts.now)]
        case c.CaptureHold():
            account = _moving(facts, command.account_id)
            held, counterpart = _find_hold(account, command.hold_id, facts.now)
            amount = held if command.amount is None else command.amount
            _check_amount(amount)
            if amount > held:
                raise errors.HoldExceeded(
                    f"{format_amount(amount, account.currency)} is more than the "
                    f"{format_amount(held, account.currency)} still held",
                    field="amount",
                    remaining=format_amount(held, account.currency),
                )
            captured = e.HoldCaptured(
                transaction_id=facts.command_id,
                hold_id=command.hold_id,
                amount=amount,
                currency=account.currency,
                counterpart=counterpart,
                final=command.final,
                memo=command.memo,
            )
            return [(account.account_id, captured, facts.now)]


def _place(command: c.PlaceHold, facts: Facts) -> list[Decided]:
    account = _moving(facts, command.account_id)
    _check_currency(account, command.currency)
    _check_amount(command.amount)
    if command.expires_at is not None and command.expires_at <= facts.now:
        raise errors.ExpiryInPast(
            f"expires_at {command.expires_at.isoformat()} is not after now, "
            f"{facts.now.isoformat()}",
            field="expires_at",
        )
    expired = _take(account, command.amount, facts.now)
    placed = e.HoldPlaced(
        hold_id=facts.command_id,
        amount=command.amount,
        currency=command.currency,
        counterpart=command.counterpart,
        expires_at=command.expires_at,
        memo=command.memo,
    )
    return [*expired, (command.account_id, placed, facts.now)]


def _find_hold(account: Account, hold_id: str, now: datetime) -> tuple[int, str]:
    hold = account.holds.get(hold_id)
    if hold is None:
        raise errors.HoldFinished(
            f"account {account.account_id} has no open hold {hold_id}: it was captured, released, "
            "has expired, or never was",
            field="hold_id",
        )
    if hold.expires_at is not None and hold.expires_at <= now:
        raise errors.HoldFinished(
            f"hold {hold_id} expired at {hold.expires_at.isoformat()}", field="hold_id"
        )
    return hold.amount, hold.counterpart


def _reverse(command: c.ReverseTransaction, facts: Facts) -> list[Decided]:
    original = facts.original
    if original is None:
        raise errors.TransactionNotFound(
            f"transaction {command.transaction_id} does not exist", field="transaction_id"
        )
    legs = [(account_id, event) for account_id, event in original.legs if event.delta]
    if not legs:
        raise errors.NotReversible("it moved no money", field="transaction_id")
    if any(isinstance(event, e.TransactionReversed) for _, event in legs):
        raise errors.NotReversible("a reversal cannot be reversed", field="transaction_id")
    if original.reversed_by:
        raise errors.AlreadyReversed(
            f"transaction {command.transaction_id} was reversed by {original.reversed_by}",
            field="transaction_id",
            reversed_by=original.reversed_by,
        )
    decided: list[Decided] = []
    for account_id, event in legs:
        decided += _reverse_leg(command, facts, account_id, event)
    return decided


def _reverse_leg(
    command: c.ReverseTransaction, facts: Facts, account_id: str, event: e.Event
) -> list[Decided]:
    account = _existing(facts, account_id)
    full = abs(event.delta)
    amount = full if command.amount is None else command.amount
    _check_amount(amount)
    if amount > full or (amount != full and event.outside == "exchange"):
        raise errors.AmountOutOfRange(
            f"a reversal takes at most the original {format_amount(full, account.currency)}, "
            "and the whole of an exchange",
            field="amount",
        )
    expired: list[Decided] = []
    if event.delta > 0:
        expired = _take(account, amount, facts.now)
    else:
        _check_balance(account, amount)
    undone = e.TransactionReversed(
        transaction_id=facts.command_id,
        reverses=command.transaction_id,
        amount=-amount if event.delta > 0 else amount,
        currency=account.currency,
        counterpart=event.outside,
        reason=command.reason,
    )
    return [*expired, (account_id, undone, facts.now)]


def _adjust(command: c.AdjustBalance, facts: Facts, effective_at: datetime) -> list[Decided]:
    account = _existing(facts, command.account_id)
    _check_currency(account, command.currency)
    _check_amount(abs(command.amount))
    legs = facts.original.legs if facts.original else ()
    if command.corrects and account.account_id not in {account_id for account_id, _ in legs}:
        raise errors.TransactionNotFound(
            f"transaction {command.corrects} is none of account {account.account_id}",
            field="corrects",
        )
    expired: list[Decided] = []
    if command.amount < 0:
        expired = _take(account, -command.amount, facts.now)
    else:
        _check_balance(account, command.amount)
    adjusted = e.BalanceAdjusted(
        transaction_id=facts.command_id,
        amount=command.amount,
        currency=command.currency,
        counterpart="adjustment",
        corrects=command.corrects,
        reason=command.reason,
    )
    return [*expired, (command.account_id, adjusted, effective_at)]


def _administer(command: c.Command, facts: Facts) -> e.Event:
    account = _existing(facts, command.account_ids[0])
    match command:
        case c.FreezeAccount():
            if account.status == "frozen":
                raise errors.AccountFrozen("the account is already frozen")
            return e.AccountFrozen(reason=command.reason)
        case c.UnfreezeAccount():
            if account.status != "frozen":
                raise errors.AccountNotFrozen("the account is not frozen")
            return e.AccountUnfrozen(reason=command.reason)
        case c.SetOverdraftLimit():
            _check_currency(account, command.currency)
            return _set_limit(account, command.limit)
        case c.ChangeHolder():
            return e.HolderChanged(holder=command.holder, owner=command.owner)
        case c.CloseAccount():
            return _close(account, command)
        case _:
            raise TypeError(f"decide does not know {type(command).__name__}: add a case for it")


def _set_limit(account: Account, limit: int) -> e.OverdraftLimitSet:
    if not 0 <= limit <= AMOUNT_MAX:
        raise errors.AmountOutOfRange("the limit is out of range", field="limit")
    if account.balance - account.held + limit < 0:
        used = format_amount(account.held - account.balance, account.currency)
        raise errors.LimitInUse(
            f"{used} of the overdraft is in use: the limit cannot be lower", field="limit"
        )
    return e.OverdraftLimitSet(overdraft_limit=limit)


def _close(account: Account, command: c.CloseAccount) -> e.AccountClosed:
    open_holds = len(account.holds)
    if account.balance or open_holds:
        raise errors.AccountNotEmpty(
            f"the balance is {format_amount(account.balance, account.currency)} "
            f"{account.currency} with {open_holds} holds: an account closes at zero without holds",
            balance=format_amount(account.balance, account.currency),
            holds=open_holds,
        )
    return e.AccountClosed(reason=command.reason)


def _erase(command: c.EraseHolder, facts: Facts) -> e.HolderErased:
    account = facts.accounts[command.account_id]
    if account.status in ("open", "frozen"):
        raise errors.AccountNotClosed(
            "the holder's data is needed while the account is open: close it first",
            account_id=command.account_id,
        )
    if account.status == "closed" and not account.holder:
        raise errors.AlreadyErased("the holder's data was erased before")
    if account.status == "none":
        raise errors.AccountNotFound(
            f"account {command.account_id} does not exist",
            field="account_id",
            account_id=command.account_id,
        )
    return e.HolderErased(ground=command.ground)


def apply(accounts: Mapping[str, Account], decided: Sequence[Decided]) -> dict[str, Account]:
    """The accounts after the `decided` events; other accounts are left out."""
    after: dict[str, Account] = {}
    for account_id, event, _ in decided:
        after[account_id] = evolve(after.get(account_id, accounts[account_id]), event)
    return after
