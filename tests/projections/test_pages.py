"""The back office's list of accounts, its first page and its search."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from ledger import history
from ledger.domain import commands as c
from ledger.models import Command
from projections import queries
from projections.models import SavedFilter
from tests.conftest import Sender, user_with


@pytest.fixture
def client(live_db: None, settings: Any) -> Client:
    settings.ALLOWED_HOSTS = ["*"]
    return signed_in("supervisor")


def signed_in(role: str) -> Client:
    client = Client()
    client.force_login(user_with(role))
    return client


def shown(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


class TestList:
    def test_filters_and_pages(self, client: Client, send: Sender) -> None:
        owner = f"o{uuid4().hex[:8]}"
        ids = [send.open(balance=n, owner=owner, currency="CHF") for n in range(1, 56)]
        first = shown(client, f"/accounts?owner={owner}")
        assert sum(item in first for item in ids) == 50
        after = first.split("after=")[1].split('"')[0]
        second = shown(client, f"/accounts?owner={owner}&after={after}")
        assert sum(item in second for item in ids) == 5
        assert "No account is like that" in shown(client, f"/accounts?owner={owner}&currency=EUR")
        rows = client.get(f"/accounts?owner={owner}&format=csv").content.decode().splitlines()
        assert len(rows) == 56
        assert rows[1].split(",")[6] == "0.01"

    @pytest.mark.parametrize(
        "query", ["status=gone", "currency=eur", "holder=%00", "after=x", f"owner={'x' * 201}"]
    )
    def test_a_wrong_filter_is_refused(self, client: Client, query: str) -> None:
        assert client.get(f"/accounts?{query}").status_code == 400

    def test_a_filter_is_saved_per_user_and_forgotten(self, client: Client) -> None:
        name = uuid4().hex[:8]
        form = {"query": f"owner={name}", "name": name}
        assert client.post("/accounts/filters", form).status_code == 302
        assert name in shown(client, "/accounts")
        assert name not in shown(signed_in("teller"), "/accounts")
        assert client.post("/accounts/filters", form).status_code == 400, "the name is taken"
        client.post("/accounts/filters", {"query": f"owner={name}", "act": "forget"})
        assert not SavedFilter.objects.filter(name=name).exists()

    def test_several_are_frozen_at_once_and_once(self, client: Client, send: Sender) -> None:
        ids = [send.open(balance=5) for _ in range(3)]
        send(c.FreezeAccount(account_id=ids[2], reason="before"))
        form = {"act": "freeze", "reason": "court order 7", "account": ids, "key": str(uuid4())}
        for _ in range(2):
            answer = client.post("/accounts/several", form, follow=True)
            assert "Freeze: 2 done." in answer.content.decode()
            assert "Refused" in answer.content.decode()
        assert [history.current(item)[0].status for item in ids] == ["frozen"] * 3
        assert (
            Command.objects.filter(idempotency_key__startswith=f"page/{form['key']}").count() == 3
        )

    @pytest.mark.parametrize(
        "change",
        [{"account": []}, {"act": "close"}, {"account": ["x"]}, {"key": ""}, {"reason": ""}],
    )
    def test_a_wrong_form_does_nothing(
        self, client: Client, send: Sender, change: dict[str, Any]
    ) -> None:
        account = send.open()
        form = {"act": "freeze", "reason": "r", "account": [account], "key": str(uuid4())}
        assert client.post("/accounts/several", form | change).status_code == 400
        assert history.current(account)[0].status == "open"

    def test_who_may_not(self, client: Client, send: Sender) -> None:
        account = send.open()
        form = {"act": "freeze", "reason": "r", "account": [account], "key": str(uuid4())}
        for role in ("teller", "auditor", "customer"):
            assert signed_in(role).post("/accounts/several", form).status_code == 403
        assert signed_in("customer").get("/accounts").status_code == 403
        assert history.current(account)[0].status == "open"


class TestHome:
    def test_shows_pace_findings_and_what_waits(self, client: Client, send: Sender) -> None:
        send.open(balance=5)
        text = shown(client, "/")
        assert "Events per hour" in text
        assert "Verification" in text
        assert "Last minute" not in text
        assert "home-live" in shown(client, "/live")

    def test_the_number_of_queries_does_not_grow(
        self, client: Client, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queries, "BEARINGS_SECONDS", -1.0)
        monkeypatch.setattr(queries, "IDENTIFIED_SECONDS", -1.0)

        def count(url: str) -> int:
            client.get(url)
            with CaptureQueriesContext(connection) as seen:
                assert client.get(url).status_code == 200
            return len(seen)

        account = send.open(balance=10_000)
        urls = [
            "/",
            "/accounts",
            f"/accounts/{account}",
            "/approvals",
            "/operations",
            "/search?q=Te",
        ]
        before = {url: count(url) for url in urls}
        for _ in range(40):
            send.open(balance=5)
            send(c.Withdraw(account_id=account, amount=1, currency="EUR"))
        assert {url: count(url) for url in urls} == before


class TestSearch:
    def test_by_correlation_id(self, client: Client, send: Sender) -> None:
        account, order = send.open(), f"order-{uuid4()}"
        sent = [
            send(c.Deposit(account_id=account, amount=n, currency="EUR"), correlation_id=order)
            for n in (1, 2)
        ]
        text = shown(client, f"/search?q={order}")
        assert all(item.command_id in text for item in sent)
        assert text.count("/transactions/") == 2

    @pytest.mark.parametrize("asked", ["7,654.31", "7654.31 EUR", "-7654.31"])
    def test_by_amount(self, client: Client, send: Sender, asked: str) -> None:
        account = send.open()
        sent = send(c.Deposit(account_id=account, amount=765431, currency="EUR"))
        other = send(c.Deposit(account_id=account, amount=7654310, currency="EUR"))
        text = client.get("/search", {"q": asked}).content.decode()
        assert sent.command_id in text
        assert other.command_id not in text

    def test_an_amount_of_another_currency_is_not_found(self, client: Client, send: Sender) -> None:
        account = send.open(currency="JPY")
        sent = send(c.Deposit(account_id=account, amount=886_655, currency="JPY"))
        assert sent.command_id not in client.get("/search", {"q": "8866.55"}).content.decode()
        assert sent.command_id in client.get("/search", {"q": "886655 JPY"}).content.decode()

    @pytest.mark.parametrize("asked", ["", "%", "_", "\\", "0.00", "1" * 20 + ".0", "5 XXX", "'--"])
    def test_odd_words_are_answered(self, client: Client, asked: str) -> None:
        assert client.get("/search", {"q": asked}).status_code == 200


class TestHolds:
    def test_a_part_is_captured_for_good_and_the_correction_names_it(
        self, client: Client, send: Sender, settings: Any
    ) -> None:
        settings.LEDGER_APPROVAL = {}
        account = send.open(balance=5000)
        hold = send(c.PlaceHold(account_id=account, amount=3000, currency="EUR")).command_id
        url = f"/accounts/{account}/holds/{hold}/capture"
        form = {"key": uuid4().hex, "amount": "99.00", "final": "on"}
        assert "more than the 30.00 still held" in client.post(url, form).content.decode()
        form = {"key": uuid4().hex, "amount": "10.00", "final": "on"}
        assert client.post(url, form).status_code == 302
        state, _ = history.current(account)
        assert (state.balance, state.held) == (4000, 0)

        captured = Command.objects.get(idempotency_key=f"page/{form['key']}").pk
        form = {"key": uuid4().hex, "amount": "1.00", "reason": "was 9", "corrects": str(captured)}
        assert client.post(f"/accounts/{account}/adjust", form).status_code == 302
        adjusted = Command.objects.get(idempotency_key=f"page/{form['key']}").pk
        assert f'class="undone-by" href="/transactions/{adjusted}"' in shown(
            client, f"/transactions/{captured}"
        )
        assert f'id="undoes" href="/transactions/{captured}"' in shown(
            client, f"/transactions/{adjusted}"
        )
