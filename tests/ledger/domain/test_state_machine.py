"""Thousands of random commands against a naive model that shares no code with the domain."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ledger.domain import commands as c
from ledger.domain.decide import Facts, Original, apply, decide
from ledger.domain.events import Event
from ledger.domain.state import Account, fold
from ledger.errors import Rejected

ACCOUNTS = ["a", "b", "c"]
accounts = st.sampled_from(ACCOUNTS)
amounts = st.integers(min_value=1, max_value=300)


class LedgerMachine(RuleBasedStateMachine):
    """The domain beside plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.number = 0
        self.states = {name: Account(account_id=name) for name in ACCOUNTS}
        self.events: dict[str, list[Event]] = {name: [] for name in ACCOUNTS}
        self.legs: dict[str, list[tuple[str, Event]]] = {}
        # The naive model: amounts only.
        self.money = dict.fromkeys(ACCOUNTS, 0)
        self.limit = dict.fromkeys(ACCOUNTS, 0)
        self.status = dict.fromkeys(ACCOUNTS, "none")
        self.holds: dict[str, tuple[str, int, datetime | None]] = {}
        self.outside = 0
        self.undone: dict[str, str] = {}

    def run(self, command: c.Command, *, allowed: bool, effect: Callable[[str], None]) -> None:
        self.number += 1
        command_id = f"t{self.number}"
        original = None
        if isinstance(command, c.ReverseTransaction) and command.transaction_id in self.legs:
            original = Original(
                legs=self.legs[command.transaction_id],
                reversed_by=self.undone.get(command.transaction_id, ""),
            )
        facts = Facts(command_id=command_id, now=self.now, accounts=self.states, original=original)
        try:
            decided = decide(command, facts)
        except Rejected as refusal:
            assert not allowed, refusal
            return
        assert allowed, (command, self.money, self.status)
        self.states |= apply(self.states, decided)
        for account_id, event, _ in decided:
            self.events[account_id].append(event)
        self.legs[command_id] = [(account_id, event) for account_id, event, _ in decided]
        effect(command_id)

    def held(self, name: str) -> int:
        return sum(
            amount
            for owner, amount, until in self.holds.values()
            if owner == name and (until is None or until > self.now)
        )

    def free(self, name: str) -> int:
        return self.money[name] - self.held(name) + self.limit[name]

    def moves(self, name: str) -> bool:
        return self.status[name] == "open"

    def alive(self, name: str) -> bool:
        return self.status[name] in ("open", "frozen")

    @rule(name=accounts)
    def open(self, name: str) -> None:
        def effect(_: str) -> None:
            self.status[name] = "open"

        command = c.OpenAccount(account_id=name, holder="x", currency="EUR")
        self.run(command, allowed=self.status[name] == "none", effect=effect)

    @rule(name=accounts, amount=amounts)
    def deposit(self, name: str, amount: int) -> None:
        def effect(_: str) -> None:
            self.money[name] += amount
            self.outside -= amount

        command = c.Deposit(account_id=name, amount=amount, currency="EUR")
        self.run(command, allowed=self.moves(name), effect=effect)

    @rule(name=accounts, amount=amounts)
    def withdraw(self, name: str, amount: int) -> None:
        def effect(_: str) -> None:
            self.money[name] -= amount
            self.outside += amount

        command = c.Withdraw(account_id=name, amount=amount, currency="EUR")
        allowed = self.moves(name) and amount <= self.free(name)
        self.run(command, allowed=allowed, effect=effect)

    @rule(payer=accounts, payee=accounts, amount=amounts)
    def transfer(self, payer: str, payee: str, amount: int) -> None:
        def effect(_: str) -> None:
            self.money[payer] -= amount
            self.money[payee] += amount

        command = c.Transfer(
            from_account_id=payer, to_account_id=payee, amount=amount, currency="EUR"
        )
        allowed = (
            payer != payee
            and self.moves(payer)
            and self.moves(payee)
            and amount <= self.free(payer)
        )
        self.run(command, allowed=allowed, effect=effect)

    @rule(name=accounts, amount=amounts, minutes=st.none() | st.integers(1, 30))
    def hold(self, name: str, amount: int, minutes: int | None) -> None:
        until = self.now + timedelta(minutes=minutes) if minutes else None

        def effect(command_id: str) -> None:
            self.holds[command_id] = (name, amount, until)

        command = c.PlaceHold(account_id=name, amount=amount, currency="EUR", expires_at=until)
        allowed = self.moves(name) and amount <= self.free(name)
        self.run(command, allowed=allowed, effect=effect)

    @rule(data=st.data(), amount=st.none() | amounts, final=st.booleans())
    def capture(self, data: Any, amount: int | None, *, final: bool) -> None:
        if not self.holds:
            return
        hold_id = data.draw(st.sampled_from(sorted(self.holds)))
        name, left, until = self.holds[hold_id]
        taken = left if amount is None else amount
        in_time = until is None or until > self.now

        def effect(_: str) -> None:
            self.money[name] -= taken
            self.outside += taken
            del self.holds[hold_id]
            if left > taken and not final:
                self.holds[hold_id] = (name, left - taken, until)

        command = c.CaptureHold(account_id=name, hold_id=hold_id, amount=amount, final=final)
        allowed = self.moves(name) and in_time and taken <= left
        self.run(command, allowed=allowed, effect=effect)

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        if not self.holds:
            return
        hold_id = data.draw(st.sampled_from(sorted(self.holds)))
        name, _, until = self.holds[hold_id]

        def effect(_: str) -> None:
            del self.holds[hold_id]

        command = c.ReleaseHold(account_id=name, hold_id=hold_id)
        allowed = self.alive(name) and (until is None or until > self.now)
        self.run(command, allowed=allowed, effect=effect)

    @rule(minutes=st.integers(1, 20))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(data=st.data())
    def reverse(self, data: Any) -> None:
        if not self.legs:
            return
        target = data.draw(st.sampled_from(sorted(self.legs)))
        legs = [(name, event.delta) for name, event in self.legs[target] if event.delta]
        is_reversal = target in self.undone.values()
        allowed = (
            bool(legs)
            and not is_reversal
            and target not in self.undone
            and all(self.alive(name) for name, _ in legs)
            and all(delta < 0 or delta <= self.free(name) for name, delta in legs)
        )

        def effect(command_id: str) -> None:
            self.undone[target] = command_id
            for name, delta in legs:
                self.money[name] -= delta
                self.outside += delta

        command = c.ReverseTransaction(transaction_id=target, reason="x")
        self.run(command, allowed=allowed, effect=effect)

    @rule(name=accounts, amount=st.integers(-200, 200).filter(bool))
    def adjust(self, name: str, amount: int) -> None:
        def effect(_: str) -> None:
            self.money[name] += amount
            self.outside -= amount

        command = c.AdjustBalance(account_id=name, amount=amount, currency="EUR", reason="x")
        allowed = self.alive(name) and (amount > 0 or -amount <= self.free(name))
        self.run(command, allowed=allowed, effect=effect)

    @rule(name=accounts, limit=st.integers(0, 200))
    def set_limit(self, name: str, limit: int) -> None:
        def effect(_: str) -> None:
            self.limit[name] = limit

        recorded_holds = sum(amount for owner, amount, _ in self.unexpired(name))
        allowed = self.alive(name) and self.money[name] - recorded_holds + limit >= 0
        command = c.SetOverdraftLimit(account_id=name, limit=limit, currency="EUR")
        self.run(command, allowed=allowed, effect=effect)

    def unexpired(self, name: str) -> list[tuple[str, int, datetime | None]]:
        """Holds whose expiry is not recorded: `set_limit` and `close` count them still."""
        return [
            hold
            for hold_id, hold in self.holds.items()
            if hold[0] == name and hold_id in self.states[name].holds
        ]

    @rule(name=accounts)
    def freeze(self, name: str) -> None:
        def effect(_: str) -> None:
            self.status[name] = "frozen"

        command = c.FreezeAccount(account_id=name, reason="x")
        self.run(command, allowed=self.status[name] == "open", effect=effect)

    @rule(name=accounts)
    def unfreeze(self, name: str) -> None:
        def effect(_: str) -> None:
            self.status[name] = "open"

        command = c.UnfreezeAccount(account_id=name, reason="x")
        self.run(command, allowed=self.status[name] == "frozen", effect=effect)

    @rule(name=accounts)
    def close(self, name: str) -> None:
        def effect(_: str) -> None:
            self.status[name] = "closed"

        allowed = self.alive(name) and self.money[name] == 0 and not self.unexpired(name)
        self.run(c.CloseAccount(account_id=name), allowed=allowed, effect=effect)

    @invariant()
    def balances_agree(self) -> None:
        for name in ACCOUNTS:
            state = self.states[name]
            assert state.balance == self.money[name]
            assert state.available >= 0
            assert state.held >= 0
            assert state.status == self.status[name]
            if self.alive(name):
                assert state.available_at(self.now) == self.free(name)

    @invariant()
    def money_is_conserved(self) -> None:
        outside = -sum(
            event.delta for events in self.events.values() for event in events if event.outside
        )
        assert sum(self.money.values()) + outside == 0

    @invariant()
    def replay_gives_the_same(self) -> None:
        for name in ACCOUNTS:
            assert fold(Account(account_id=name), self.events[name]) == self.states[name]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=80,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
