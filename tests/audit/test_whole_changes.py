"""The whole ledger on both clocks, against a naive list of what was recorded when and counts when."""

import csv
import io
from datetime import UTC, datetime, timedelta
from itertools import combinations, combinations_with_replacement
from typing import Any

import pytest
from django.test import Client

from audit import whole_changes
from audit.spoken import zone_of
from audit.timeline import Asked
from ledger import store
from ledger.domain import commands as c
from tests.conftest import Sender, user_with

DAYS = [datetime(2026, month, 15, tzinfo=UTC) for month in range(1, 6)]


def asked(**given: Any) -> Asked:
    texts = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in given.items()
    }
    return Asked(given=texts, zone=zone_of("UTC"))


@pytest.fixture
def history_of(send: Sender) -> tuple[list[datetime], list[tuple[datetime, datetime, int]]]:
    """Moments between batches of entries, and the entries: recorded, counting, amount."""
    account, other = send.open(balance=100_000), send.open(balance=100_000)
    moments, entries = [store.clock()], []
    for batch in range(3):
        for number, day in enumerate(DAYS):
            amount = 100 * batch + number + 1
            kind = c.Deposit if number % 2 else c.Withdraw
            done = send(kind(account_id=account, amount=amount, currency="EUR", effective_at=day))
            assert done.recorded_at is not None
            entries.append((done.recorded_at, day, amount if number % 2 else -amount))
        send(c.Transfer(from_account_id=account, to_account_id=other, amount=7, currency="EUR"))
        moments.append(store.clock())
    return moments, entries


class TestChanges:
    def test_are_those_recorded_between_that_count_within(self, history_of: Any) -> None:
        moments, entries = history_of
        bounds = [None, DAYS[0] - timedelta(days=1), *DAYS]
        for first, last in combinations_with_replacement(moments, 2):
            for low, high in combinations(bounds, 2):
                found = whole_changes.changes(
                    asked(effective_a=low or "", effective_b=high, known_a=first, known_b=last)
                )
                expected = [
                    amount
                    for recorded, counting, amount in entries
                    if first < recorded <= last
                    and (low is None or low < counting)
                    and counting <= high
                ]
                assert [line.amount for line in found.lines] == expected
                assert found.total == len(expected)
                assert sum(minor for *_, minor in found.sums) == sum(expected)

    def test_the_page_the_file_and_what_is_refused(self, history_of: Any, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        moments, entries = history_of
        client = Client()
        client.force_login(user_with("auditor"))
        client.post("/reason", {"reason": "year end"})

        def ask(**given: str) -> Any:
            return client.get("/ledger/changes", given)

        assert "Counting after" in ask().content.decode()
        known = {"known_a": moments[0].isoformat(), "known_b": moments[-1].isoformat()}
        shown = ask(effective_b="2026-05-15", **known).content.decode()
        assert f"{len(entries)} events" in shown
        rows = list(
            csv.DictReader(
                io.StringIO(ask(effective_b="2026-05-15", format="csv", **known).content.decode())
            )
        )
        assert [round(100 * float(row["amount"])) for row in rows] == [
            amount for _, _, amount in entries
        ]
        nothing = ask(effective_b="1999-12-31", **known).content.decode()
        assert "the figures of the period are the same" in nothing
        for wrong, field in (
            ({"effective_b": ""}, "effective_b"),
            ({"effective_b": "yesterdayish"}, "effective_b"),
            ({"effective_b": "2026-01-01", "effective_a": "2026-02-01"}, "effective_b"),
            ({"effective_b": "2026-01-01", "known_b": "2025-01-01"}, "known_b"),
        ):
            answer = ask(**(known | wrong))
            assert answer.status_code == 400, wrong
            assert f"{field}:" in answer.content.decode()
        client.force_login(user_with("teller"))
        assert ask(effective_b="2026-05-15", **known).status_code == 403
