"""Server-sent events: what is new arrives, a reader goes on where it was, places are given back."""

import json
from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Any

import pytest
from django.test import Client

from ledger import store, streams
from ledger.domain import commands as c
from tests.conftest import Api, Sender, in_threads, user_with


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    monkeypatch.setattr(streams, "LIFE_SECONDS", 1.0)
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.01)


def messages(answer: Any) -> Iterator[dict[str, Any]]:
    """The messages of a stream as they come."""
    assert answer["Content-Type"] == "text/event-stream"
    for part in answer.streaming_content:
        for block in part.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in fields:
                yield {**fields, "data": json.loads(fields["data"])}


def feed(send_to: Api, path: str = "events/feed", **headers: str) -> Any:
    return send_to.client.get(
        f"/api/v1/{path}", headers={"Accept": "text/event-stream", "Read-Reason": "x 1", **headers}
    )


class TestFeed:
    def test_goes_on_by_position_and_hears_what_is_new(self, api: Api, send: Sender) -> None:
        before = store.last_position()
        account = send.open(balance=5)
        answer = feed(api, f"events/feed?after={before}")
        stream = messages(answer)
        first, second = next(stream), next(stream)
        assert [item["event"] for item in (first, second)] == ["AccountOpened", "MoneyDeposited"]
        assert [int(item["id"]) for item in (first, second)] == [before + 1, before + 2]
        assert second["data"]["account_id"] == account
        in_threads(1, lambda _: send(c.Deposit(account_id=account, amount=1, currency="EUR")))
        assert int(next(stream)["id"]) == before + 3
        answer.close()
        again = feed(api, "events/feed?after=0", **{"Last-Event-ID": str(before + 2)})
        assert int(next(messages(again))["id"]) == before + 3
        again.close()

    def test_nothing_is_missed_and_nothing_comes_twice(self, api: Api, send: Sender) -> None:
        before = store.last_position()
        account = send.open()
        answer = feed(api, f"events/feed?after={before}")
        stream = messages(answer)
        seen = [int(next(stream)["id"])]
        for _ in range(30):
            send(c.Deposit(account_id=account, amount=1, currency="EUR"))
        seen += [int(item["id"]) for item in stream]
        assert seen == list(range(before + 1, before + 32))

    @pytest.mark.parametrize("role", ["teller", "customer"])
    def test_is_for_those_who_may_read_the_log(self, api_as: Any, role: str) -> None:
        assert feed(api_as(role)).status_code == 403

    @pytest.mark.parametrize("seen", ["x", "-1", "1.5", "9" * 30])
    def test_a_wrong_place_is_refused(self, api: Api, seen: str) -> None:
        assert feed(api, **{"Last-Event-ID": seen}).status_code == 400
        assert feed(api, f"events/feed?after={seen}").status_code == 400


class TestPlaces:
    def test_one_too_many_is_sent_away_and_places_come_back(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "_slots", BoundedSemaphore(streams.STREAMS_MAX))
        held = [feed(api) for _ in range(streams.STREAMS_MAX)]
        assert {answer.status_code for answer in held} == {200}
        refused = feed(api)
        assert refused.status_code == 503
        assert refused["Retry-After"]
        held[0].close()  # before it was read at all
        list(held[1].streaming_content)  # to its end
        held[1].close()
        again = [feed(api), feed(api)]
        assert {answer.status_code for answer in again} == {200}
        for answer in [*held[2:], *again]:
            answer.close()
        assert feed(api).status_code == 200


class TestAccountStream:
    def test_says_where_the_account_is(self, live_db: None, send: Sender) -> None:
        account = send.open(balance=5)
        client = Client()
        client.force_login(user_with("teller"))
        answer = client.get(f"/accounts/{account}/stream")
        stream = messages(answer)
        assert next(stream)["data"]["version"] == 2
        send(c.Deposit(account_id=account, amount=1, currency="EUR"))
        assert next(stream)["data"]["version"] == 3
        answer.close()

    def test_is_closed_to_others(self, live_db: None, send: Sender) -> None:
        account = send.open(balance=5)
        client = Client()
        assert client.get(f"/accounts/{account}/stream").status_code == 302
        client.force_login(user_with("customer"))
        assert client.get(f"/accounts/{account}/stream").status_code == 404
