"""Webhooks against a real server: signed, in order, once more after a failure, and never inside."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import Client
from standardwebhooks.webhooks import Webhook as Referee

from ledger import store
from ledger.domain import commands as c
from ledger.errors import InvalidInputError
from projections import rebuild, webhooks
from projections.models import Delivery, Webhook
from tests.conftest import Sender, user_with


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent; answers with what it was told to."""

    answers: list[int]

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler: Any) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.got.append((dict(handler.headers), body))
                status = self.answers.pop(0) if self.answers else 204
                handler.send_response(status)
                handler.send_header("Location", "http://127.0.0.1:1/")
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?x=1"

    def positions(self) -> list[int]:
        return [json.loads(body)["data"]["position"] for _, body in self.got]


@pytest.fixture
def receiver(own_log: str, send_own: Sender, settings: Any) -> Iterator[Receiver]:
    settings.LEDGER_WEBHOOKS_PRIVATE = True
    settings.ALLOWED_HOSTS = ["*"]
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


def due_now(hook: Webhook) -> None:
    Webhook.objects.filter(pk=hook.pk).update(due_at=store.clock())


class TestDelivery:
    def test_is_signed_in_order_and_from_now_on(self, receiver: Receiver, send_own: Sender) -> None:
        account = send_own.open(balance=5)
        hook = webhooks.add(receiver.url, [], user="x")
        for _ in range(3):
            send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
        assert webhooks.run() == 3
        assert receiver.positions() == [3, 4, 5]
        for headers, body in receiver.got:
            names = {name.lower(): text for name, text in headers.items()}
            told = Referee(hook.secret).verify(body, names)
            assert told["type"] == "ledger.MoneyDeposited.v1"
            assert names["webhook-id"] == f"evt_{told['data']['position']}"
            with pytest.raises(Exception, match="signature"):
                Referee(hook.secret).verify(body.replace(b"EUR", b"USD"), names)
        assert webhooks.run() == 0, "once"

    def test_a_failure_holds_what_follows_and_is_tried_again(
        self, receiver: Receiver, send_own: Sender
    ) -> None:
        account = send_own.open()
        hook = webhooks.add(receiver.url, [], user="x")
        for _ in range(3):
            send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
        receiver.answers = [200, 500]
        assert webhooks.run() == 1
        hook.refresh_from_db()
        assert (hook.failures, hook.position, hook.problem) == (1, 2, "event 3: answered 500")
        assert webhooks.run() == 0, "not before its time"
        due_now(hook)
        receiver.answers = [302]
        assert webhooks.run() == 0, "a redirect is not followed"
        due_now(hook)
        assert webhooks.run() == 2
        assert receiver.positions() == [2, 3, 3, 3, 4]
        hook.refresh_from_db()
        assert (hook.failures, hook.problem) == (0, "")
        told = [(row.position, row.status) for row in Delivery.objects.order_by("id")]
        assert told == [(2, 200), (3, 500), (3, 302), (3, 204), (4, 204)]

    def test_one_that_is_down_for_days_is_switched_off_and_goes_on_later(
        self, receiver: Receiver, send_own: Sender
    ) -> None:
        hook = webhooks.add("http://127.0.0.1:1/", [], user="x")
        good = webhooks.add(receiver.url, ["AccountOpened"], user="x")
        send_own.open(balance=5)
        assert webhooks.run() == 1, "the other one got what it wants"
        Webhook.objects.filter(pk=hook.pk).update(
            failing_since=store.clock() - timedelta(days=4), due_at=store.clock()
        )
        webhooks.run()
        hook.refresh_from_db()
        assert (hook.is_on, "ConnectionRefused" in hook.problem) == (False, True)
        Webhook.objects.filter(pk=hook.pk).update(url=receiver.url)
        webhooks.switch_on(hook)
        assert webhooks.run() == 2
        assert receiver.positions() == [1, 1, 2]
        good.refresh_from_db()
        assert good.position == 2

    def test_two_workers_deliver_once(self, receiver: Receiver, send_own: Sender) -> None:
        webhooks.add(receiver.url, [], user="x")
        send_own.open(balance=5)
        with store.single_flight(store.Lock.WEBHOOKS) as got:
            assert got
            other = threading.Thread(target=webhooks.run)
            other.start()
            other.join()
        assert receiver.got == []

    def test_a_rebuild_sends_nothing(
        self, receiver: Receiver, send_own: Sender, own_redis: str
    ) -> None:
        webhooks.add(receiver.url, [], user="x")
        send_own.open(balance=5)
        webhooks.run()
        count = len(receiver.got)
        rebuild.run_inline(reason="t", requested_by="t", progress=lambda *_: None)
        webhooks.run()
        assert len(receiver.got) == count


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "http://example.org/", "ftp://example.org/", "https://", "https://a:b@example.org/",
            "javascript:alert(1)", "https://example.org:0/", "https://example.org:x/",
            "https://[::1", "https://example.org/\n", "",
        ],
    )  # fmt: skip
    def test_what_may_not_be_one(self, live_db: None, url: str) -> None:
        with pytest.raises(InvalidInputError):
            webhooks.add(url, [], user="x")

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254",
                                      "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])  # fmt: skip
    def test_nothing_private_is_called(self, receiver: Receiver, settings: Any, host: str) -> None:
        settings.LEDGER_WEBHOOKS_PRIVATE = False
        with pytest.raises(webhooks.NotDeliveredError, match="not a public address"):
            webhooks.post(f"https://{host}:{receiver.server_port}/", b"{}", {})
        assert receiver.got == []

    def test_an_unknown_event_is_named(self, live_db: None) -> None:
        with pytest.raises(InvalidInputError, match="MoneyBurnt"):
            webhooks.add("https://example.org/", ["MoneyBurnt"], user="x")


class TestPages:
    def test_add_see_switch_and_remove(self, receiver: Receiver, send_own: Sender) -> None:
        client = Client()
        client.force_login(user_with("supervisor"))
        bad = client.post("/webhooks", {"url": "nowhere"})
        assert (bad.status_code, b"nowhere" in bad.content) == (400, True)
        form = {"url": receiver.url, "types": ["AccountOpened"]}
        where = client.post("/webhooks", form)["Location"]
        send_own.open(balance=5)
        webhooks.run()
        shown = client.get(where).content.decode()
        assert "whsec_" in shown
        assert "<td>204</td>" in shown
        for act in ("off", "on", "remove"):
            assert client.post(where, {"act": act}).status_code == 302
        assert not Webhook.objects.exists()
        assert client.get(where).status_code == 404

    @pytest.mark.parametrize("role", ["teller", "auditor", "customer", "service"])
    def test_others_may_not(self, receiver: Receiver, role: str) -> None:
        hook = webhooks.add(receiver.url, [], user="x")
        client = Client()
        client.force_login(user_with(role))
        assert client.get("/webhooks").status_code == 403
        assert client.get(f"/webhooks/{hook.pk}").status_code == 403
        assert client.post(f"/webhooks/{hook.pk}", {"act": "remove"}).status_code == 403
