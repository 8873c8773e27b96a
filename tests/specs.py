"""Given events, when a command, then events or a refusal: the domain's tests read like its rules."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from ledger.domain.commands import Command
from ledger.domain.decide import Facts, Original, decide
from ledger.domain.events import Event
from ledger.domain.state import Account, fold
from ledger.errors import Rejected

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
COMMAND_ID = "cccccccc-0000-4000-8000-000000000003"


class Scenario:
    """One decision."""

    def __init__(self) -> None:
        self.accounts = {A: Account(account_id=A), B: Account(account_id=B)}
        self.now = NOW
        self.original: Original | None = None

    def given(self, *events: Event, account: str = A) -> Self:
        """What happened before, on one account."""
        self.accounts[account] = fold(self.accounts[account], events)
        return self

    def given_original(self, *legs: tuple[str, Event], reversed_by: str = "") -> Self:
        """The transaction that a reversal names."""
        self.original = Original(legs=legs, reversed_by=reversed_by)
        return self

    def later(self, **delta: float) -> Self:
        """Time passes."""
        self.now += timedelta(**delta)
        return self

    def when(self, command: Command) -> Self:
        """The command."""
        self.command = command
        return self

    def _decide(self) -> list[Event]:
        facts = Facts(
            command_id=COMMAND_ID, now=self.now, accounts=self.accounts, original=self.original
        )
        return [event for _, event, _ in decide(self.command, facts)]

    def then(self, *expected: Event) -> None:
        """Exactly these events."""
        assert self._decide() == list(expected)

    def then_types(self, *expected: str) -> None:
        """Events of these types."""
        assert [type(event).__name__ for event in self._decide()] == list(expected)

    def then_refused(self, error: type[Rejected]) -> Rejected:
        """Refused by this rule."""
        try:
            events: Sequence[Event] = self._decide()
        except Rejected as refusal:
            assert type(refusal) is error, refusal
            return refusal
        raise AssertionError(f"accepted: {events}")
