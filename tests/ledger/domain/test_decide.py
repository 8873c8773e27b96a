from datetime import timedelta

import pytest

from ledger import errors
from ledger.domain import commands as c
from ledger.domain import events as e
from ledger.domain.money import AMOUNT_MAX
from tests.specs import COMMAND_ID, NOW, A, B, Scenario

OPENED = e.AccountOpened(holder="Ann", currency="EUR")
HOLD = "dddddddd-0000-4000-8000-000000000004"


def deposited(amount: int) -> e.MoneyDeposited:
    return e.MoneyDeposited(transaction_id="t1", amount=amount, currency="EUR", counterpart="cash")


def held(amount: int, minutes: int | None = None) -> e.HoldPlaced:
    expires_at = NOW + timedelta(minutes=minutes) if minutes else None
    return e.HoldPlaced(
        hold_id=HOLD, amount=amount, currency="EUR", counterpart="card", expires_at=expires_at
    )


def deposit(amount: int, currency: str = "EUR") -> c.Deposit:
    return c.Deposit(account_id=A, amount=amount, currency=currency)


def withdraw(amount: int) -> c.Withdraw:
    return c.Withdraw(account_id=A, amount=amount, currency="EUR")


def transfer(amount: int, **fields: object) -> c.Transfer:
    values = {"from_account_id": A, "to_account_id": B, "currency": "EUR", **fields}
    return c.Transfer(amount=amount, **values)  # type: ignore[arg-type]  # test values


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


class TestOpenAccount:
    def test_opens_once(self, scenario: Scenario) -> None:
        command = c.OpenAccount(account_id=A, holder="Ann", currency="EUR")
        scenario.when(command).then(OPENED)
        scenario.given(OPENED).when(command).then_refused(errors.AccountAlreadyOpen)


class TestDeposit:
    def test_adds_money(self, scenario: Scenario) -> None:
        expected = e.MoneyDeposited(
            transaction_id=COMMAND_ID, amount=5, currency="EUR", counterpart="cash"
        )
        scenario.given(OPENED).when(deposit(5)).then(expected)

    def test_needs_an_open_account(self, scenario: Scenario) -> None:
        scenario.when(deposit(5)).then_refused(errors.AccountNotFound)

    @pytest.mark.parametrize("amount", [0, -1, AMOUNT_MAX + 1])
    def test_refuses_amounts_out_of_range(self, scenario: Scenario, amount: int) -> None:
        scenario.given(OPENED).when(deposit(amount)).then_refused(errors.AmountOutOfRange)

    def test_refuses_another_currency(self, scenario: Scenario) -> None:
        scenario.given(OPENED).when(deposit(5, "USD")).then_refused(errors.CurrencyMismatch)

    def test_keeps_the_balance_within_bounds(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(AMOUNT_MAX)).when(deposit(1)).then_refused(
            errors.BalanceOutOfRange
        )

    def test_counts_in_the_past_but_never_in_the_future(self, scenario: Scenario) -> None:
        scenario.given(OPENED)
        past = c.Deposit(account_id=A, amount=1, currency="EUR", effective_at=NOW)
        scenario.when(past).then_types("MoneyDeposited")
        future = c.Deposit(
            account_id=A, amount=1, currency="EUR", effective_at=NOW + timedelta(microseconds=1)
        )
        scenario.when(future).then_refused(errors.EffectiveInFuture)


class TestWithdraw:
    def test_takes_exactly_all_and_not_one_more(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(5000))
        scenario.when(withdraw(5000)).then_types("MoneyWithdrawn")
        refusal = scenario.when(withdraw(5001)).then_refused(errors.InsufficientFunds)
        assert refusal.facts["available"] == "50.00"

    def test_goes_down_to_the_overdraft_limit(self, scenario: Scenario) -> None:
        scenario.given(OPENED, e.OverdraftLimitSet(overdraft_limit=2000))
        scenario.when(withdraw(2000)).then_types("MoneyWithdrawn")
        scenario.when(withdraw(2001)).then_refused(errors.InsufficientFunds)

    def test_respects_holds(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(60))
        scenario.when(withdraw(40)).then_types("MoneyWithdrawn")
        scenario.when(withdraw(41)).then_refused(errors.InsufficientFunds)

    def test_records_an_expiry_that_it_needs(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(60, minutes=5)).later(minutes=5)
        scenario.when(withdraw(40)).then_types("MoneyWithdrawn")
        scenario.when(withdraw(100)).then_types("HoldExpired", "MoneyWithdrawn")


class TestTransfer:
    def test_moves_between_two_accounts(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100)).given(OPENED, account=B)
        scenario.when(transfer(100)).then_types("TransferSent", "TransferReceived")

    def test_to_oneself_is_refused(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100))
        scenario.when(transfer(1, to_account_id=A)).then_refused(errors.SameAccount)

    def test_to_a_closed_account_is_refused(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100)).given(OPENED, e.AccountClosed(), account=B)
        scenario.when(transfer(1)).then_refused(errors.AccountClosed)

    def test_across_currencies_needs_the_credited_amount(self, scenario: Scenario) -> None:
        dollars = e.AccountOpened(holder="Bob", currency="USD")
        scenario.given(OPENED, deposited(100)).given(dollars, account=B)
        scenario.when(transfer(10)).then_refused(errors.CurrencyMismatch)
        scenario.when(transfer(10, credited_currency="USD")).then_refused(errors.CurrencyMismatch)
        scenario.when(transfer(10, credited_currency="USD", credited_amount=11)).then_types(
            "TransferSent", "TransferReceived"
        )

    def test_within_one_currency_credits_the_same(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100)).given(OPENED, account=B)
        scenario.when(transfer(10, credited_amount=11)).then_refused(errors.CurrencyMismatch)


class TestHolds:
    def test_exactly_the_available_amount_can_be_held(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100))
        place = c.PlaceHold(account_id=A, amount=100, currency="EUR")
        scenario.when(place).then_types("HoldPlaced")
        scenario.given(held(1)).when(place).then_refused(errors.InsufficientFunds)

    def test_expiry_must_lie_ahead(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100))
        place = c.PlaceHold(account_id=A, amount=1, currency="EUR", expires_at=NOW)
        scenario.when(place).then_refused(errors.ExpiryInPast)

    def test_captures_in_parts_and_never_more_than_is_left(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(50))
        capture = c.CaptureHold(account_id=A, hold_id=HOLD, amount=30)
        scenario.when(c.CaptureHold(account_id=A, hold_id=HOLD, amount=60)).then_refused(
            errors.HoldExceeded
        )
        scenario.when(capture).then_types("HoldCaptured")
        captured = e.HoldCaptured(
            transaction_id="t",
            hold_id=HOLD,
            amount=30,
            currency="EUR",
            counterpart="card",
            final=False,
        )
        scenario.given(captured).when(capture).then_refused(errors.HoldExceeded)
        rest = scenario.accounts[A]
        assert (rest.balance, rest.held, rest.available) == (70, 20, 50)

    def test_a_final_capture_frees_the_rest(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(50))
        command = c.CaptureHold(account_id=A, hold_id=HOLD, amount=30, final=True)
        captured = e.HoldCaptured(
            transaction_id=COMMAND_ID, hold_id=HOLD, amount=30, currency="EUR", counterpart="card",
            final=True,
        )  # fmt: skip
        scenario.when(command).then(captured)
        scenario.given(captured).when(command).then_refused(errors.HoldFinished)
        rest = scenario.accounts[A]
        assert (rest.balance, rest.held, rest.available, rest.holds) == (70, 0, 70, {})

    def test_a_released_hold_is_finished(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(50), e.HoldReleased(hold_id=HOLD, amount=50))
        release = c.ReleaseHold(account_id=A, hold_id=HOLD)
        scenario.when(release).then_refused(errors.HoldFinished)
        scenario.when(c.CaptureHold(account_id=A, hold_id=HOLD)).then_refused(errors.HoldFinished)

    def test_is_expired_from_its_instant_on(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(50, minutes=5)).later(seconds=299)
        capture = c.CaptureHold(account_id=A, hold_id=HOLD)
        scenario.when(capture).then_types("HoldCaptured")
        scenario.later(seconds=1).when(capture).then_refused(errors.HoldFinished)
        assert scenario.accounts[A].available_at(scenario.now) == 100
        scenario.when(c.ExpireHolds(account_id=A)).then_types("HoldExpired")


class TestAdjust:
    def adjust(self, corrects: str = "") -> c.AdjustBalance:
        return c.AdjustBalance(
            account_id=A, amount=-5, currency="EUR", reason="typed wrong", corrects=corrects
        )

    def test_may_name_the_transaction_that_was_wrong(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100)).given_original((A, deposited(100)))
        expected = e.BalanceAdjusted(
            transaction_id=COMMAND_ID, amount=-5, currency="EUR", counterpart="adjustment",
            corrects="t1", reason="typed wrong",
        )  # fmt: skip
        scenario.when(self.adjust("t1")).then(expected)

    def test_names_none_of_another_account(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100))
        scenario.when(self.adjust("t1")).then_refused(errors.TransactionNotFound)
        scenario.given_original((B, deposited(100)))
        scenario.when(self.adjust("t1")).then_refused(errors.TransactionNotFound)


class TestReverse:
    def reverse(self, amount: int | None = None) -> c.ReverseTransaction:
        return c.ReverseTransaction(transaction_id="t1", reason="wrong", amount=amount)

    def test_undoes_a_deposit(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100)).given_original((A, deposited(100)))
        expected = e.TransactionReversed(
            transaction_id=COMMAND_ID,
            reverses="t1",
            amount=-100,
            currency="EUR",
            counterpart="cash",
            reason="wrong",
        )
        scenario.when(self.reverse()).then(expected)

    def test_happens_once(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100))
        scenario.given_original((A, deposited(100)), reversed_by="r1")
        refusal = scenario.when(self.reverse()).then_refused(errors.AlreadyReversed)
        assert refusal.facts["reversed_by"] == "r1"

    def test_of_spent_money_is_refused_not_clamped(self, scenario: Scenario) -> None:
        spent = e.MoneyWithdrawn(transaction_id="t2", amount=80, currency="EUR", counterpart="cash")
        scenario.given(OPENED, deposited(100), spent).given_original((A, deposited(100)))
        scenario.when(self.reverse()).then_refused(errors.InsufficientFunds)
        scenario.when(self.reverse(20)).then_types("TransactionReversed")

    def test_takes_no_more_than_the_original(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(500)).given_original((A, deposited(100)))
        scenario.when(self.reverse(101)).then_refused(errors.AmountOutOfRange)

    def test_of_a_transfer_undoes_both_legs(self, scenario: Scenario) -> None:
        sent = e.TransferSent(
            transaction_id="t1",
            amount=40,
            currency="EUR",
            to_account_id=B,
            credited_amount=40,
            credited_currency="EUR",
        )
        received = e.TransferReceived(
            transaction_id="t1",
            amount=40,
            currency="EUR",
            from_account_id=A,
            sent_amount=40,
            sent_currency="EUR",
        )
        scenario.given(OPENED, deposited(100), sent).given(OPENED, received, account=B)
        scenario.given_original((A, sent), (B, received))
        scenario.when(self.reverse()).then_types("TransactionReversed", "TransactionReversed")

    def test_of_what_moved_no_money_is_refused(self, scenario: Scenario) -> None:
        scenario.given(OPENED).given_original((A, OPENED))
        scenario.when(self.reverse()).then_refused(errors.NotReversible)

    def test_of_a_reversal_is_refused(self, scenario: Scenario) -> None:
        undone = e.TransactionReversed(
            transaction_id="t1",
            reverses="t0",
            amount=-5,
            currency="EUR",
            counterpart="cash",
            reason="x",
        )
        scenario.given(OPENED, deposited(9), undone).given_original((A, undone))
        scenario.when(self.reverse()).then_refused(errors.NotReversible)

    def test_of_nothing_is_refused(self, scenario: Scenario) -> None:
        scenario.given(OPENED).when(self.reverse()).then_refused(errors.TransactionNotFound)


class TestLifecycle:
    def test_a_frozen_account_moves_no_money(self, scenario: Scenario) -> None:
        scenario.given(OPENED, deposited(100), held(10), e.AccountFrozen(reason="x"))
        scenario.given(OPENED, account=B)
        for command in (
            deposit(1),
            withdraw(1),
            transfer(1),
            c.CaptureHold(account_id=A, hold_id=HOLD),
            c.PlaceHold(account_id=A, amount=1, currency="EUR"),
        ):
            scenario.when(command).then_refused(errors.AccountFrozen)
        scenario.when(c.ReleaseHold(account_id=A, hold_id=HOLD)).then_types("HoldReleased")

    def test_closes_at_zero_without_holds(self, scenario: Scenario) -> None:
        close = c.CloseAccount(account_id=A)
        Scenario().given(OPENED, deposited(1)).when(close).then_refused(errors.AccountNotEmpty)
        limit = e.OverdraftLimitSet(overdraft_limit=100)
        Scenario().given(OPENED, limit, held(5)).when(close).then_refused(errors.AccountNotEmpty)
        scenario.given(OPENED).when(close).then_types("AccountClosed")

    def test_a_closed_account_accepts_nothing(self, scenario: Scenario) -> None:
        scenario.given(OPENED, e.AccountClosed()).given_original((A, deposited(5)))
        for command in (
            deposit(1),
            withdraw(1),
            c.CloseAccount(account_id=A),
            c.FreezeAccount(account_id=A, reason="x"),
            c.ReverseTransaction(transaction_id="t1", reason="x"),
            c.AdjustBalance(account_id=A, amount=1, currency="EUR", reason="x"),
            c.ReleaseHold(account_id=A, hold_id=HOLD),
        ):
            scenario.when(command).then_refused(errors.AccountClosed)

    def test_a_limit_in_use_cannot_be_taken_away(self, scenario: Scenario) -> None:
        spent = e.MoneyWithdrawn(transaction_id="t2", amount=80, currency="EUR", counterpart="cash")
        scenario.given(OPENED, e.OverdraftLimitSet(overdraft_limit=100), spent)
        limit = c.SetOverdraftLimit(account_id=A, limit=79, currency="EUR")
        scenario.when(limit).then_refused(errors.LimitInUse)
