"""A closed period stays closed: for commands, for races, and for SQL."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import IntegrityError, connection
from django.test import Client

from ledger import access, store
from ledger.domain import commands as c
from ledger.errors import ForbiddenError, InvalidInputError
from ledger.models import Period
from tests.conftest import Sender, superuser, user_with

MARCH = datetime(2026, 3, 31, 23, 59, 59, 999999, tzinfo=UTC)


def close(through: datetime = MARCH) -> None:
    Period.objects.create(closed_through=through, closed_by="supervisor", reason="month end")


def deposit(account: str, effective_at: datetime | None, memo: str = "late") -> c.Deposit:
    return c.Deposit(
        account_id=account, amount=100, currency="EUR", memo=memo, effective_at=effective_at
    )


class TestClosed:
    def test_nothing_is_back_dated_into_it(self, send_own: Sender) -> None:
        account = send_own.open()
        assert send_own(deposit(account, MARCH)).error is None
        close()
        refused = send_own(deposit(account, MARCH)).error
        assert refused is not None
        assert (refused.code, refused.field) == ("period_closed", "effective_at")
        assert send_own(deposit(account, MARCH + timedelta(microseconds=1))).error is None
        assert send_own(deposit(account, None)).error is None

    def test_a_neighbour_in_the_batch_goes_on(self, send_own: Sender) -> None:
        account = send_own.open()
        close()
        good, bad = send_own.wrap(deposit(account, None)), send_own.wrap(deposit(account, MARCH))
        [[first], [second]] = send_own.bus.send([[good], [bad]])
        assert first.error is None  # type: ignore[union-attr]  # an outcome
        assert second.error.code == "period_closed"  # type: ignore[union-attr]  # an outcome

    def test_closed_between_the_decision_and_the_append(
        self, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = send_own.open()
        append, closed = store.append, threading.Event()

        def close_elsewhere() -> None:
            close()
            connection.close()

        def close_first(batch: str) -> Any:
            if not closed.is_set():
                closed.set()
                thread = threading.Thread(target=close_elsewhere)
                thread.start()
                thread.join()
            return append(batch)

        monkeypatch.setattr(store, "append", close_first)
        outcome = send_own(deposit(account, MARCH))
        assert outcome.error is not None
        assert outcome.error.code == "period_closed"
        assert [event.type for event in store.read_stream(account)] == ["AccountOpened"]

    def test_by_sql_neither(self, send_own: Sender, own_log: str) -> None:
        account = send_own.open()
        send_own(deposit(account, MARCH))
        close()
        with superuser(own_log) as admin, pytest.raises(psycopg.Error, match="closed period"):
            admin.execute(
                "INSERT INTO ledger_event SELECT position + 1, account_id, version + 1, type, "
                "schema_version, payload, metadata, effective_at, recorded_at, leaf_hash "
                "FROM ledger_event ORDER BY position DESC LIMIT 1"
            )

    @pytest.mark.parametrize("through", [MARCH, MARCH - timedelta(days=1)])
    def test_each_is_later_than_the_last(self, own_log: str, through: datetime) -> None:
        close()
        with pytest.raises(IntegrityError, match="already"):
            close(through)

    def test_none_before_it_is_over(self, own_log: str) -> None:
        with pytest.raises(IntegrityError, match="before it is over"):
            close(datetime.now(UTC) + timedelta(hours=1))

    @pytest.mark.parametrize(
        "change", ["UPDATE ledger_period SET reason = 'x'", "DELETE FROM ledger_period"]
    )
    def test_and_stays(self, own_log: str, change: str) -> None:
        close()
        with (
            superuser(own_log) as admin,
            pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"),
        ):
            admin.execute(change)


class TestBackdating:
    def test_people_say_why_and_tellers_may_not(self, live_db: None) -> None:
        account = str(uuid4())
        supervisor = user_with("supervisor")
        with pytest.raises(InvalidInputError, match="say why"):
            access.check_command(supervisor, deposit(account, MARCH, memo=" "))
        access.check_command(supervisor, deposit(account, MARCH))
        access.check_command(user_with("service"), deposit(account, MARCH, memo=""))
        with pytest.raises(ForbiddenError):
            access.check_command(user_with("teller"), deposit(account, MARCH))


class TestPage:
    def ask(self, role: str, **form: str) -> Any:
        client = Client()
        client.force_login(user_with(role))
        return client.post("/periods", form)

    def test_a_supervisor_closes_and_others_may_not(self, own_log: str, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        assert self.ask("teller", through="2026-03-31", reason="month end").status_code == 403
        assert self.ask("auditor", through="2026-03-31", reason="month end").status_code == 403
        assert not Period.objects.exists()
        assert self.ask("supervisor", through="2026-03-31", reason="").status_code == 400
        assert self.ask("supervisor", through="31.3.2026", reason="month end").status_code == 400
        assert self.ask("supervisor", through="2026-03-31", reason="month end").status_code == 302
        [period] = Period.objects.all()
        assert (period.closed_through, period.closed_by) == (MARCH, "test-supervisor")
        again = self.ask("supervisor", through="2026-03-31", reason="month end")
        assert "closed through" in again.content.decode()
        assert again.status_code == 400
