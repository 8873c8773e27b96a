"""Commands under real concurrency: once, in order, never past a limit, never half."""

import random
import threading
from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuid7
from django.db import connection

from ledger import bus as bus_module
from ledger import history, store
from ledger.bus import CommandBus
from ledger.domain import commands as c
from ledger.errors import (
    BusyError,
    IdempotencyKeyReusedError,
    StateIncompleteError,
    StoreUnavailableError,
    WrongExpectedVersionError,
)
from ledger.handlers import Outcome, outcome_of
from ledger.models import Command
from tests.conftest import Sender, in_threads, superuser


def deposit(account: str, amount: int = 100) -> c.Deposit:
    return c.Deposit(account_id=account, amount=amount, currency="EUR")


def withdraw(account: str, amount: int) -> c.Withdraw:
    return c.Withdraw(account_id=account, amount=amount, currency="EUR")


def balance(account: str) -> int:
    return history.current(account)[0].balance


def accepted(results: list[Any]) -> int:
    assert all(isinstance(item, Outcome) for item in results), results
    return sum(item.error is None for item in results)


def assert_stream_is_sound(account: str) -> None:
    """Versions 1..n; the fold is never below zero at any version and equals the head."""
    events = store.read_stream(account, limit=100_000)
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    for event in events:
        assert history.fold_to(account, event.version).available >= 0
    assert history.fold_to(account, len(events)) == history.current(account)[0]


class TestIdempotency:
    def test_fifty_identical_parallel_posts_have_one_effect(self, send: Sender) -> None:
        account = send.open()
        results = in_threads(50, lambda _: send(deposit(account), key=f"k-{account}"))
        assert accepted(results) == 50
        assert len({result.command_id for result in results}) == 1
        assert sum(not result.replayed for result in results) == 1
        assert {(result.last_position, str(result.accounts)) for result in results} == {
            (results[0].last_position, str(results[0].accounts))
        }
        assert balance(account) == 100

    def test_holds_across_processes(self, send: Sender) -> None:
        """Buses share nothing but the database, as two web processes do."""
        account = send.open()
        buses = [Sender() for _ in range(4)]
        results = in_threads(24, lambda n: buses[n % 4](deposit(account), key=f"k-{account}"))
        assert accepted(results) == 24
        assert balance(account) == 100

    def test_another_body_is_refused(self, send: Sender) -> None:
        account, key = send.open(), f"k-{uuid7.uuid7()}"
        send(deposit(account), key=key)
        for other in (deposit(account, 99), deposit(send.open()), withdraw(account, 100)):
            with pytest.raises(IdempotencyKeyReusedError):
                send(other, key=key)
        assert balance(account) == 100

    def test_a_refusal_is_recorded_and_stays(self, send: Sender) -> None:
        account, key = send.open(), f"k-{uuid7.uuid7()}"
        first = send(withdraw(account, 100), key=key)
        send(deposit(account, 1000))
        again = send(withdraw(account, 100), key=key)
        assert first.error is not None
        assert again.error is not None
        assert again.error.as_record() == first.error.as_record()
        assert again.replayed
        row = Command.objects.get(pk=first.command_id)
        assert (row.outcome, row.actor, str(row.account_id)) == ("rejected", "tester", account)

    def test_a_replay_is_the_first_answer_even_later(self, send: Sender) -> None:
        account = send.open(balance=100)
        first = send(deposit(account), key=f"k-{account}")
        for _ in range(3):
            send(deposit(account))
        again = send(deposit(account), key=f"k-{account}")
        assert again.accounts == first.accounts
        assert again.events == first.events
        assert again.recorded_at == first.recorded_at

    def test_comes_before_the_version_check(self, send: Sender) -> None:
        account = send.open()
        send(deposit(account), key=f"k-{account}", expected_version=1)
        assert send(deposit(account), key=f"k-{account}", expected_version=1).replayed


class TestExpectedVersion:
    def test_one_of_twenty_wins(self, send: Sender) -> None:
        account = send.open()
        results = in_threads(20, lambda _: send(deposit(account), expected_version=1))
        winners = [item for item in results if isinstance(item, Outcome)]
        losers = [item for item in results if isinstance(item, WrongExpectedVersionError)]
        assert (len(winners), len(losers)) == (1, 19)
        assert all(loser.facts["current_version"] == 2 for loser in losers)


class TestRaces:
    def test_withdrawals_never_pass_the_limit(self, send: Sender) -> None:
        account = send.open(balance=1000)
        buses = [Sender() for _ in range(3)]
        results = in_threads(64, lambda n: buses[n % 3](withdraw(account, 100)))
        assert accepted(results) == 10
        assert balance(account) == 0
        assert_stream_is_sound(account)

    def test_different_commands_cannot_take_the_same_money(self, send: Sender) -> None:
        other = send.open()
        for _ in range(10):
            account = send.open(balance=100)
            commands = [
                withdraw(account, 60),
                c.Transfer(from_account_id=account, to_account_id=other, amount=60, currency="EUR"),
                c.PlaceHold(account_id=account, amount=60, currency="EUR"),
            ]
            assert accepted(in_threads(3, lambda n: send(commands[n]))) == 1  # noqa: B023

    def test_opposite_transfers_never_deadlock(self, send: Sender) -> None:
        payer, payee = send.open(balance=100_000), send.open(balance=100_000)
        buses = [Sender() for _ in range(2)]

        def work(number: int) -> list[Outcome]:
            pair = (payer, payee) if number % 2 else (payee, payer)
            command = c.Transfer(
                from_account_id=pair[0], to_account_id=pair[1], amount=1, currency="EUR"
            )
            return [buses[number % 2](command) for _ in range(25)]

        results = in_threads(16, work)
        assert accepted([item for batch in results for item in batch]) == 400
        assert balance(payer) == balance(payee) == 100_000

    def test_of_reversals_has_one_winner(self, send: Sender) -> None:
        account = send.open(balance=500)
        paid = send(deposit(account))
        command = c.ReverseTransaction(transaction_id=paid.command_id, reason="x")
        buses = [Sender() for _ in range(2)]
        results = in_threads(10, lambda n: buses[n % 2](command))
        winner = [item for item in results if item.error is None]
        assert len(winner) == 1
        assert {item.error.facts["reversed_by"] for item in results if item.error} == {
            winner[0].command_id
        }
        assert balance(account) == 500

    def test_of_first_openings_has_one_winner(self, send: Sender) -> None:
        account = str(uuid7.uuid7())
        buses = [Sender() for _ in range(2)]
        command = c.OpenAccount(account_id=account, holder="x", currency="EUR")
        assert accepted(in_threads(10, lambda n: buses[n % 2](command))) == 1
        assert accepted(in_threads(10, lambda n: buses[n % 2](deposit(account)))) == 10
        assert_stream_is_sound(account)

    def test_conserve_money_over_a_random_storm(self, send_own: Sender) -> None:
        accounts = [send_own.open(balance=1000) for _ in range(6)]
        buses = [Sender() for _ in range(3)]

        def work(number: int) -> None:
            dice = random.Random(number)
            for _ in range(30):
                payer, payee = dice.sample(accounts, 2)
                amount = dice.randint(1, 400)
                buses[number % 3](
                    dice.choice(
                        [
                            deposit(payer, amount),
                            withdraw(payer, amount),
                            c.Transfer(
                                from_account_id=payer, to_account_id=payee, amount=amount,
                                currency="EUR",
                            ),
                        ]
                    )
                )  # fmt: skip

        assert in_threads(12, work) == [None] * 12
        last = store.last_position()
        by_outside = {row[2]: row[4] for row in store.balances_at(last) if row[2]}
        assert sum(balance(account) for account in accounts) == sum(
            row[4] for row in store.balances_at(last)
        )
        assert set(by_outside) == {"cash"}
        positions = [event.position for event in store.read_log(after=0, limit=10_000)]
        assert positions == list(range(1, last + 1))
        for account in accounts:
            assert_stream_is_sound(account)


class TestBatch:
    def test_atomic_takes_all_or_nothing(self, send: Sender) -> None:
        account = send.open(balance=100)
        good = [send.wrap(withdraw(account, 50)), send.wrap(withdraw(account, 50))]
        bad = [send.wrap(deposit(account)), send.wrap(withdraw(account, 5000))]
        [results] = send.bus.send([bad])
        assert [item.error.code for item in results] == ["batch_refused", "insufficient_funds"]  # type: ignore[union-attr]  # outcomes
        assert balance(account) == 100
        [results] = send.bus.send([good])
        assert accepted(results) == 2
        assert balance(account) == 0

    def test_each_on_its_own_leaves_neighbours_alone(self, send: Sender) -> None:
        account = send.open()
        units = [
            [send.wrap(deposit(account, 1 if n not in (3, 300, 499) else -5))] for n in range(500)
        ]
        results = [result for [result] in send.bus.send(units)]
        assert accepted(results) == 497
        assert balance(account) == 497

    def test_keeps_the_order_of_one_account(self, send: Sender) -> None:
        account = send.open()
        units = [[send.wrap(deposit(account, n + 1))] for n in range(300)]
        send.bus.send(units)
        amounts = [event.event.delta for event in store.read_stream(account)[1:]]
        assert amounts == list(range(1, 301))


class TestDryRun:
    def test_is_the_real_decision_and_stores_nothing(self, send: Sender) -> None:
        account = send.open(balance=100)
        before = (store.last_position(), Command.objects.count())
        dry = send(withdraw(account, 60), dry_run=True)
        refused = send(withdraw(account, 101), dry_run=True)
        assert (store.last_position(), Command.objects.count()) == before
        real = send(withdraw(account, 60))
        assert dry.accounts == real.accounts
        assert [event.version for event in dry.events] == [event.version for event in real.events]
        assert refused.error is not None
        assert refused.error.code == "insufficient_funds"


class TestFaults:
    def test_a_full_queue_says_so_and_takes_nothing(
        self, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = send.open()
        monkeypatch.setattr(bus_module, "QUEUE_MAX", 10)
        with store.log_lock():  # appends wait, so the queue fills
            results: list[Any] = []
            threads = 30

            def work(_: int) -> Outcome:
                return send(deposit(account))

            done = threading.Thread(target=lambda: results.extend(in_threads(threads, work)))
            done.start()
            done.join(1.0)
            assert done.is_alive()
        done.join()
        busy = [item for item in results if isinstance(item, BusyError)]
        assert busy
        assert balance(account) == 100 * (threads - len(busy))

    def test_a_connection_killed_before_the_commit_is_retried(self, send_own: Sender) -> None:
        account = send_own.open()
        name = connection.settings_dict["NAME"]
        with superuser() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
        assert send_own(deposit(account)).error is None
        assert balance_fresh(account) == 100

    def test_a_lost_answer_after_the_commit_gives_the_first_result(
        self, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The append commits, then the connection dies before its answer is read."""
        account = send.open()
        real = store.append
        lost: list[store.Appended] = []

        def append_and_die(batch: str) -> store.Appended:
            done = real(batch)
            if not lost:
                lost.append(done)
                raise psycopg_error()
            return done

        monkeypatch.setattr(store, "append", append_and_die)
        outcome = send(deposit(account))
        assert lost
        assert outcome.error is None
        assert not outcome.replayed
        assert balance(account) == 100

    def test_a_database_that_stays_away_is_unavailable_never_insufficient(
        self, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = send.open(balance=100)

        def die(batch: str) -> store.Appended:
            raise psycopg_error()

        with monkeypatch.context() as patch:
            patch.setattr(store, "append", die)
            with pytest.raises(StoreUnavailableError):
                send(withdraw(account, 50), key=f"w-{account}")
        assert send(withdraw(account, 50), key=f"w-{account}").error is None

    def test_connections_killed_all_the_time_lose_and_double_nothing(
        self, send_own: Sender
    ) -> None:
        account = send_own.open()
        name = connection.settings_dict["NAME"]
        stop = threading.Event()

        def kill() -> None:
            with superuser() as admin:
                while not stop.wait(0.02):
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = %s AND pid <> pg_backend_pid()",
                        [name],
                    )

        def work(number: int) -> int:
            unavailable = 0
            for n in range(40):
                while True:
                    try:
                        assert send_own(deposit(account, 1), key=f"{number}/{n}").error is None
                        break
                    except StoreUnavailableError:
                        unavailable += 1
            return unavailable

        killer = threading.Thread(target=kill)
        killer.start()
        results = in_threads(8, work)
        stop.set()
        killer.join()
        assert all(isinstance(item, int) for item in results), results
        assert balance_fresh(account) == 8 * 40
        assert_stream_is_sound(account)

    def test_a_bug_is_stopped_by_the_database_and_hits_only_its_own_command(
        self, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`decide` forgets to check the funds of one command among many."""
        from ledger.domain import events as e
        from ledger.domain.decide import decide

        account, other = send.open(balance=100), send.open()

        def careless(command: c.Command, facts: Any) -> Any:
            if isinstance(command, c.Withdraw):
                event = e.MoneyWithdrawn(
                    transaction_id="x", amount=101, currency="EUR", counterpart="cash"
                )
                return [(account, event, facts.now)]
            return decide(command, facts)

        monkeypatch.setattr("ledger.handlers.decide", careless)
        units = [[send.wrap(deposit(other, 1))] for _ in range(20)]
        units.insert(7, [send.wrap(withdraw(account, 101))])
        results = [result for [result] in send.bus.send(units)]
        assert type(results.pop(7)).__name__ == "IntegrityError"
        assert accepted(results) == 20
        assert (balance(account), balance(other)) == (100, 20)

    def test_an_unknown_event_stops_only_its_account(self, send_own: Sender) -> None:
        account, other = send_own.open(balance=500), send_own.open()
        inject_event(account, "FeeCharged", '{"amount": 5}')
        with pytest.raises(StateIncompleteError):
            send_own(withdraw(account, 500))
        assert send_own(deposit(other)).error is None


def psycopg_error() -> Exception:
    from django.db import OperationalError

    return OperationalError("the connection was lost")


def balance_fresh(account: str) -> int:
    connection.close()
    return balance(account)


def inject_event(account: str, event_type: str, payload: str) -> None:
    """Put an event of newer software into the log, and a head of another logic."""
    with superuser(connection.settings_dict["NAME"]) as admin:
        admin.execute(
            """
            INSERT INTO ledger_event SELECT (SELECT max(position) + 1 FROM ledger_event), account_id,
                version + 1, %s, 1, %s::jsonb, metadata, effective_at,
                (SELECT max(recorded_at) FROM ledger_event), leaf_hash
            FROM ledger_event WHERE account_id = %s ORDER BY version DESC LIMIT 1
            """,
            [event_type, payload, account],
        )
        admin.execute(
            "UPDATE ledger_account SET version = version + 1, position = position + 1, "
            "state = state || jsonb_build_object('version', version + 1), state_schema = 'newer' "
            "WHERE id = %s",
            [account],
        )


class TestHeadsOfOtherLogic:
    def test_are_not_trusted(self, send_own: Sender) -> None:
        account = send_own.open(balance=500)
        with superuser(connection.settings_dict["NAME"]) as admin:
            admin.execute(
                "UPDATE ledger_account SET state = state || '{\"balance\": 999999}', state_schema = 'old'"
            )
        refused = send_own(withdraw(account, 501))
        assert refused.error is not None
        assert refused.error.code == "insufficient_funds"
        assert send_own(withdraw(account, 500)).accounts[0].balance == 0


class TestOutcomeOf:
    def test_is_what_was_answered(self, send: Sender) -> None:
        payer, payee = send.open(balance=100), send.open()
        done = send(
            c.Transfer(from_account_id=payer, to_account_id=payee, amount=30, currency="EUR")
        )
        assert outcome_of(done.command_id) == done


class TestUnderLoad:
    def test_a_log_that_cannot_be_locked_is_a_known_outcome(self, send: Sender) -> None:
        """Not a sender that gives up not knowing: nothing was written, and the key is free."""
        account = send.open()
        url = connection.settings_dict
        with superuser(str(url["NAME"])) as other:
            other.execute("BEGIN; SELECT pg_advisory_xact_lock(ledger_lock())")
            with pytest.raises(StoreUnavailableError):
                send(deposit(account), key="while-locked")
            other.execute("ROLLBACK")
        assert balance(account) == 0
        assert send(deposit(account), key="while-locked").replayed is False
        assert balance(account) == 100

    def test_no_table_is_read_whole_once_it_has_grown(self, own_log: str, send_own: Sender) -> None:
        """Plans are kept; one made while the tables were empty must not read them whole later."""
        accounts = [send_own.open() for _ in range(3)]

        def round_of(count: int) -> None:
            units = [[send_own.wrap(deposit(accounts[number % 3], 1))] for number in range(count)]
            plan, done = bus_module._decide_and_append(units)
            assert done.status == "appended"
            [event] = plan.events[:1]
            reverse = c.ReverseTransaction(
                transaction_id=event["payload"].transaction_id, reason="test"
            )
            bus_module._decide_and_append([[send_own.wrap(reverse)]])

        def whole_reads() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_stat_force_next_flush()")
                cursor.execute(
                    "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables "
                    "WHERE relname LIKE 'ledger\\_%%'"
                )
                return int(cursor.fetchone()[0])

        for _ in range(12):  # plans are settled after five calls
            round_of(2)
        before = whole_reads()
        for _ in range(5):
            round_of(200)
        assert whole_reads() == before


class TestHoldSweep:
    def test_expires_each_hold_once_however_many_sweep(
        self, live_db: None, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ledger import tasks

        account = send.open(balance=100)
        clock, _ = store.settle()
        soon = clock + timedelta(seconds=0.3)
        send(c.PlaceHold(account_id=account, amount=60, currency="EUR", expires_at=soon))
        while store.settle()[0] <= soon + timedelta(seconds=1):
            tasks.expire_holds()
        assert in_threads(4, lambda _: tasks.expire_holds()) is not None
        kinds = [event.type for event in store.read_stream(account)]
        assert kinds.count("HoldExpired") == 1
        assert history.current(account)[0].available == 100


def test_bus_survives_a_fork(send: Sender) -> None:
    """Threads do not: a bus used before a fork starts new ones after it."""
    bus = CommandBus()
    bus._process = -1
    account = send.open()
    assert bus.send_one(send.wrap(deposit(account))).error is None
