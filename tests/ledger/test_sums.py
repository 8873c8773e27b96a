"""Kept sums: a trial balance from them is the one from all events, at every position."""

from typing import Any

import pytest

from audit import checks
from ledger import history, store
from ledger.domain import commands as c
from tests.conftest import Sender, in_threads, superuser


@pytest.fixture
def log(send_own: Sender, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(store, "SUMS_EVERY", 7)
    one, two = send_own.open(balance=50_000), send_own.open(balance=300, currency="JPY")
    three = send_own.open()
    for number in range(8):
        send_own(c.Withdraw(account_id=one, amount=10 + number, currency="EUR", counterpart="card"))
        send_own(c.Transfer(from_account_id=one, to_account_id=three, amount=100, currency="EUR"))
        send_own(c.Deposit(account_id=two, amount=1, currency="JPY", counterpart="bank:X"))
    return store.last_position()


def plain(position: int) -> Any:
    return store.sums_between(0, position)


class TestKept:
    def test_the_same_at_every_position(self, log: int) -> None:
        before = [history.trial_balance(position) for position in range(log + 1)]
        while store.keep_sums():
            pass
        assert store.last_kept_sums() == log // 7 * 7
        for position in range(log + 1):
            assert store.balances_at(position) == plain(position)
            assert history.trial_balance(position) == before[position]

    def test_kept_by_many_at_once(self, log: int, own_log: str) -> None:
        in_threads(5, lambda _: [store.keep_sums() for _ in range(9)])
        assert store.balances_at(log) == plain(log)

    def test_a_changed_one_is_found(self, log: int, own_log: str) -> None:
        while store.keep_sums():
            pass
        assert checks.check_accounts().findings == []
        with superuser(own_log) as admin:
            admin.execute(
                "UPDATE ledger_sum SET minor = minor + 1 WHERE position = %s AND outside = 'bank'",
                [store.last_kept_sums()],
            )
        [finding] = checks.check_accounts().findings
        assert finding.row.startswith("kept sum of JPY MoneyDeposited")
