"""The board of stuck work: what it shows, who may press its buttons, and that it is recorded."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client

from ledger import store
from ledger.models import Access
from projections import rebuild, redis_store
from projections.models import Generation, Parked
from tests.conftest import user_with


@pytest.fixture
def board(own_log: str, own_redis: str, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Client:
    settings.ALLOWED_HOSTS = ["*"]

    def build_now(generation: Generation) -> None:
        for shard in range(generation.shards_total):
            rebuild.build_shard(generation.pk, shard)

    monkeypatch.setattr(rebuild, "dispatch", build_now)
    rebuild.ensure(reason="test")
    client = Client()
    client.force_login(user_with("supervisor"))
    return client


def park(account: str) -> None:
    live, _ = redis_store.generations()
    redis_store.park(live, account, "FeeCharged version 1 is newer than this software")


class TestBoard:
    def test_shows_what_is_parked_and_a_retry_is_asked_for_and_recorded(
        self, board: Client
    ) -> None:
        account, other = str(uuid4()), str(uuid4())
        park(account)
        Parked.objects.create(
            topic=django_settings.LEDGER_TOPIC, account_id=other, position=7, reason="takes 9 bytes"
        )
        shown = board.get("/operations").content.decode()
        assert account in shown
        assert "is newer than this software" in shown
        assert "takes 9 bytes" in shown
        for item in (account, other):
            answer = board.post(
                "/operations", {"act": "retry", "account_id": item, "reason": "case 9"}
            )
            assert answer.status_code == 302
        assert sorted(redis_store.take_retries()) == sorted([account, other])
        assert Parked.objects.get(account_id=other).is_retry_wanted
        rows = Access.objects.order_by("-number")[:2]
        assert {str(row.account_id) for row in rows} == {account, other}
        assert {(row.what, row.reason, row.actor) for row in rows} == {
            ("retry of a parked account", "case 9", "test-supervisor")
        }

    @pytest.mark.parametrize(
        "form",
        [
            {"act": "retry", "account_id": str(uuid4()), "reason": ""},
            {"act": "retry", "account_id": "x", "reason": "case 9"},
            {"act": "drop", "reason": "case 9"},
            {"act": "rebuild", "reason": "a"},
        ],
    )
    def test_a_wrong_form_does_nothing(self, board: Client, form: dict[str, str]) -> None:
        before = Generation.objects.count()
        assert board.post("/operations", form).status_code == 400
        assert redis_store.take_retries() == []
        assert Generation.objects.count() == before

    def test_the_projections_are_built_anew_by_a_button(self, board: Client) -> None:
        live, _ = redis_store.generations()
        assert board.post("/operations", {"act": "rebuild", "reason": "case 9"}).status_code == 302
        assert redis_store.generations()[0] != live
        assert Access.objects.order_by("-number")[0].what == "rebuild of the projections"
        assert Generation.objects.get(status="live").requested_by == "test-supervisor"

    @pytest.mark.parametrize("role", ["teller", "auditor", "customer", "service"])
    def test_others_may_not(self, board: Client, role: str) -> None:
        board.force_login(user_with(role))
        assert board.get("/operations").status_code == 403
        form = {"act": "rebuild", "reason": "case 9"}
        assert board.post("/operations", form).status_code == 403

    def test_a_transaction_that_is_held_open_is_named(self, board: Client) -> None:
        parameters = connection.get_connection_params()
        wanted = {"host", "port", "dbname", "user", "password"}
        with psycopg.connect(**{k: v for k, v in parameters.items() if k in wanted}) as other:
            other.execute("SELECT 1")
            found = store.longest_transaction()
            assert found is not None
            assert found.state == "idle in transaction"
            assert found.seconds >= 0
            assert board.get("/operations").status_code == 200
