"""Time travel equals the naive fold, with and without snapshots, for ever."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from ledger import history, store
from ledger.codec import RecordedEvent
from ledger.domain import commands as c
from ledger.domain.state import Account, fold
from ledger.errors import InvalidInputError, NotFoundError
from ledger.history import Moment, difference, state_at
from tests.conftest import Sender, in_threads, superuser


def naive(events: list[RecordedEvent], account: str) -> Account:
    return fold(Account(account_id=account), [event.event for event in events])


def busy_account(send: Sender, versions: int, seed: int = 1) -> str:
    """An account with exactly `versions` events of several kinds."""
    dice = random.Random(seed)
    account = send.open()
    done = 1
    while done < versions:
        size = min(dice.randint(1, 40), versions - done)
        units = [
            [
                send.wrap(
                    c.Deposit(account_id=account, amount=dice.randint(10, 90), currency="EUR")
                    if dice.random() < 0.6 or done == 1
                    else c.SetOverdraftLimit(
                        account_id=account, limit=dice.randint(0, 50), currency="EUR"
                    )
                )
            ]
            for _ in range(size)
        ]
        send.bus.send(units)
        done += size
    assert store.head_version(account) == versions
    return account


class TestStateAt:
    @pytest.mark.parametrize("versions", [1, 99, 100, 101, 200, 257])
    def test_equals_the_naive_fold_everywhere(self, send: Sender, versions: int) -> None:
        account = busy_account(send, versions, seed=versions)
        events = store.read_stream(account)
        interesting = {1, 40, 50, 51, 99, 100, 101, 199, 200, versions - 1, versions}
        for version in sorted(v for v in interesting if 1 <= v <= versions):
            expected = naive(events[:version], account)
            recorded = events[version - 1]
            assert state_at(account, Moment(version=version)).account == expected
            assert state_at(account, Moment(position=recorded.position)).account == expected
            found = state_at(account, Moment(as_of=recorded.recorded_at))
            same_time = [e for e in events if e.recorded_at <= recorded.recorded_at]
            assert found.account == naive(same_time, account)
            assert found.version == len(same_time)
            assert found.position == same_time[-1].position
        assert history.current(account)[0] == naive(events, account)

    def test_is_the_same_without_snapshots(self, send_own: Sender) -> None:
        account = busy_account(send_own, 250)
        moments = [Moment(version=version) for version in (100, 150, 200, 249, 250)]
        with_snapshots = [state_at(account, moment).account for moment in moments]
        with superuser(connection.settings_dict["NAME"]) as admin:
            assert admin.execute("DELETE FROM ledger_snapshot").rowcount == 2
        assert [state_at(account, moment).account for moment in moments] == with_snapshots

    def test_an_event_recorded_exactly_then_counts(self, send: Sender) -> None:
        account = send.open()
        send(c.Deposit(account_id=account, amount=5, currency="EUR"))
        opened, deposited = store.read_stream(account)
        at = deposited.recorded_at
        assert state_at(account, Moment(as_of=at)).account.balance == 5
        earlier = state_at(account, Moment(as_of=at - timedelta(microseconds=1)))
        assert (earlier.account.balance, earlier.position) == (0, opened.position)

    def test_before_the_first_event_there_is_no_account(self, send: Sender) -> None:
        account = send.open()
        [opened] = store.read_stream(account)
        for moment in (
            Moment(as_of=opened.recorded_at - timedelta(microseconds=1)),
            Moment(as_of=datetime(1990, 1, 1, tzinfo=UTC)),
        ):
            with pytest.raises(NotFoundError):
                state_at(account, moment)

    def test_what_has_not_happened_yet_is_refused(self, send: Sender) -> None:
        account = send.open()
        for moment, field in (
            (Moment(as_of=datetime(2999, 1, 1, tzinfo=UTC)), "as_of"),
            (Moment(effective_as_of=datetime(2999, 1, 1, tzinfo=UTC)), "effective_as_of"),
            (Moment(version=2), "version"),
            (Moment(position=10**12), "position"),
        ):
            with pytest.raises(InvalidInputError) as caught:
                state_at(account, moment)
            assert caught.value.field == field

    def test_answers_about_this_very_moment_are_final(self, send: Sender) -> None:
        """Whatever is asked while commands run gives the same answer afterwards."""
        account = send.open()
        answers: list[tuple[datetime, Account]] = []

        def work(number: int) -> None:
            for _ in range(30):
                if number < 3:
                    send(c.Deposit(account_id=account, amount=1, currency="EUR"))
                else:
                    now = store.settle()[0] - timedelta(microseconds=1)
                    answers.append((now, state_at(account, Moment(as_of=now)).account))

        assert in_threads(6, work) == [None] * 6
        assert len(answers) == 90
        for moment, answer in answers:
            assert state_at(account, Moment(as_of=moment)).account == answer


class TestBothClocks:
    def test_four_way_matrix(self, send: Sender) -> None:
        """Recorded before or after A, effective before or after B."""
        account = send.open(effective_at=datetime(2025, 1, 1, tzinfo=UTC))
        day = {n: datetime(2025, 6, n, tzinfo=UTC) for n in range(1, 10)}

        def post(amount: int, effective: datetime) -> datetime:
            done = send(
                c.Deposit(account_id=account, amount=amount, currency="EUR", effective_at=effective)
            )
            assert done.recorded_at is not None
            return done.recorded_at

        post(1, day[1])
        known = post(10, day[5])
        post(100, day[2])
        post(1000, day[6])

        def balance(as_of: datetime | None, effective: datetime | None) -> int:
            return state_at(account, Moment(as_of=as_of, effective_as_of=effective)).account.balance

        assert balance(known, day[3]) == 1
        assert balance(known, None) == 11
        assert balance(None, day[3]) == 101
        assert balance(None, day[5]) == 111
        assert balance(None, None) == 1111

    def test_a_backdated_entry_changes_the_effective_view_only(self, send: Sender) -> None:
        account = send.open(effective_at=datetime(2025, 1, 1, tzinfo=UTC))
        before, _ = store.settle()
        moment = Moment(as_of=before - timedelta(microseconds=1))
        seen = state_at(account, moment)
        send(
            c.Deposit(
                account_id=account,
                amount=7,
                currency="EUR",
                effective_at=datetime(2025, 2, 1, tzinfo=UTC),
            )
        )
        assert state_at(account, moment).account == seen.account
        later = Moment(effective_as_of=datetime(2025, 3, 1, tzinfo=UTC))
        assert state_at(account, later).account.balance == 7


class TestSnapshots:
    @pytest.mark.parametrize(
        "change",
        [
            "state_schema = 'older', state = state - 'held'",
            "state_schema = 'newer', state = state || '{\"unknown\": 1, \"balance\": 9}'",
            "state = '\"nonsense\"'",
            'state = state || \'{"version": 50, "balance": 9}\'',
        ],
    )
    def test_that_cannot_be_trusted_are_ignored(self, send_own: Sender, change: str) -> None:
        account = busy_account(send_own, 120)
        expected = state_at(account, Moment(version=110)).account
        with superuser(connection.settings_dict["NAME"]) as admin:
            admin.execute(f"UPDATE ledger_snapshot SET {change}")
        assert state_at(account, Moment(version=110)).account == expected
        assert send_own(c.Deposit(account_id=account, amount=1, currency="EUR")).error is None

    def test_are_made_anew_by_rebuild_state(self, send_own: Sender) -> None:
        from django.core.management import call_command

        account = busy_account(send_own, 230)
        with superuser(connection.settings_dict["NAME"]) as admin:
            good = admin.execute("SELECT version, state FROM ledger_snapshot ORDER BY 1").fetchall()
            head = admin.execute("SELECT state FROM ledger_account").fetchall()
            admin.execute("UPDATE ledger_snapshot SET state_schema = 'old', state = '{}'")
            admin.execute(
                "UPDATE ledger_account SET state_schema = 'old', state = state || '{\"balance\": 1}'"
            )
            call_command("rebuild_state")
            assert (
                admin.execute("SELECT version, state FROM ledger_snapshot ORDER BY 1").fetchall()
                == good
            )
            assert admin.execute("SELECT state FROM ledger_account").fetchall() == head
        assert history.current(account)[0].version == 230


class TestDifference:
    def test_lists_fields_and_the_events_between(self, send: Sender) -> None:
        account = send.open(balance=100)
        send(c.PlaceHold(account_id=account, amount=30, currency="EUR"))
        send(c.Withdraw(account_id=account, amount=20, currency="EUR"))
        found = difference(account, Moment(version=4), Moment(version=2))
        changed = {name: (before, after) for name, before, after in found.changes}
        assert changed["balance"] == (100, 80)
        assert changed["held"] == (0, 30)
        assert [event.version for event in found.events] == [3, 4]
        assert found.before.account.balance + sum(e.event.delta for e in found.events) == 80


class TestPositionAt:
    def test_is_the_last_position_by_then(self, send: Sender) -> None:
        send.open(balance=5)
        events = store.read_log(after=max(0, store.last_position() - 200), limit=200)
        for event in random.Random(1).sample(events, min(30, len(events))):
            expected = max(e.position for e in events if e.recorded_at <= event.recorded_at)
            assert store.position_at(event.recorded_at) == expected
        assert store.position_at(datetime(1990, 1, 1, tzinfo=UTC)) == 0


class TestTrialBalance:
    def test_sums_to_zero_at_every_position(self, send_own: Sender) -> None:
        from ledger.history import trial_balance

        euros, dollars = send_own.open(balance=1000), send_own.open(balance=50, currency="USD")
        other = send_own.open()
        send_own(c.Transfer(from_account_id=euros, to_account_id=other, amount=10, currency="EUR"))
        send_own(
            c.Transfer(
                from_account_id=euros, to_account_id=dollars, amount=100, currency="EUR",
                credited_amount=110, credited_currency="USD",
            )
        )  # fmt: skip
        paid = send_own(c.Withdraw(account_id=euros, amount=5, currency="EUR", counterpart="fees"))
        send_own(c.ReverseTransaction(transaction_id=paid.command_id, reason="x"))
        send_own(c.AdjustBalance(account_id=dollars, amount=-3, currency="USD", reason="x"))
        held = send_own(
            c.PlaceHold(account_id=euros, amount=50, currency="EUR", counterpart="card")
        )
        send_own(c.CaptureHold(account_id=euros, hold_id=held.command_id, amount=20))
        events = store.read_log(after=0)
        for event in events:
            is_inside_a_transfer = event.type == "TransferSent" and event.event.outside == ""
            for row in trial_balance(event.position):
                if not is_inside_a_transfer:
                    assert row["sum"].strip("0.") == ""
        assert trial_balance(events[-1].position)[0]["outside"]["card"] == "0.20"


class TestEffectiveFromSnapshots:
    def test_equal_to_a_plain_fold_of_what_counted(self, send: Sender) -> None:
        """Three hundred events, so that snapshots lie before and after what was back-dated."""
        account = send.open(balance=1_000)
        dice = random.Random(8)
        moments = [datetime(2026, 1, 1 + day, tzinfo=UTC) for day in range(20)]
        for number in range(300):
            late = dice.choice(moments) if number % 40 == 39 else None
            send(
                c.Deposit(account_id=account, amount=number + 1, currency="EUR", effective_at=late)
            )
        events = store.read_stream(account)
        asked = [
            *moments,
            *(event.effective_at for event in dice.sample(events, 20)),
            store.clock(),
        ]
        for effective in asked:
            for version in (None, 1, 99, 100, 101, 250, len(events)):
                counted = [
                    event
                    for event in events[: version or len(events)]
                    if event.effective_at <= effective
                ]
                moment = Moment(version=version, effective_as_of=effective)
                if not counted:
                    with pytest.raises(NotFoundError):
                        state_at(account, moment)
                    continue
                if counted[0].version != 1:
                    continue  # not opened yet by then: what is folded is no account
                plain = fold(Account(account_id=account), [event.event for event in counted])
                found = state_at(account, moment)
                assert found.account == plain
                assert found.version == (version or len(events))
