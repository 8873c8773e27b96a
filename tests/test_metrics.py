"""What an operator's monitoring reads: metrics, dashboard, alerts, and the logs."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from django.conf import settings as django_settings
from django.test import Client

from ledger import store
from ledger.domain import commands as c
from tests.conftest import Api, Sender, user_with

MONITORING = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"


@pytest.fixture
def client(live_db: None, own_redis: str, settings: Any) -> Client:
    settings.ALLOWED_HOSTS = ["*"]
    settings.LEDGER_METRICS_TOKEN = "scraper"
    return Client(headers={"Authorization": "Bearer scraper"})


def scraped(client: Client) -> dict[str, int]:
    """Samples by name with labels; counts only, times aside."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    lines = [line for line in answer.content.decode().splitlines() if line[0] != "#"]
    return {
        name: int(value.partition(".")[0] or 0)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if value.replace(".", "").replace("-", "").isdigit()
    }


class TestMetrics:
    def test_count_what_happened(self, client: Client, send: Sender) -> None:
        def count(outcome: str) -> int:
            name = f'ledger_commands_total{{name="Withdraw",outcome="{outcome}"}}'
            return scraped(client).get(name, 0)

        before = {name: count(name) for name in ("accepted", "rejected", "replayed")}
        account, key = send.open(balance=5), str(uuid4())
        for amount in (1, 9):
            send(c.Withdraw(account_id=account, amount=amount, currency="EUR"))
        for _ in range(2):
            send(c.Withdraw(account_id=account, amount=1, currency="EUR"), key=key)
        after = {name: count(name) - before[name] for name in before}
        assert after == {"accepted": 2, "rejected": 1, "replayed": 1}

    def test_say_how_things_stand(self, client: Client, send: Sender) -> None:
        send.open(balance=5)
        found = scraped(client)
        assert found["ledger_up"] == 1
        assert found["ledger_log_position"] >= 2
        assert found["ledger_generation_live"] == 0
        assert found["ledger_projection_lag_events"] == found["ledger_log_position"]

    def test_routes_are_patterns_so_that_there_are_few(self, client: Client, api: Api) -> None:
        for _ in range(3):
            api.get(f"accounts/{uuid4()}")
        names = [name for name in scraped(client) if "ledger_http" in name and "accounts" in name]
        assert any("<str:account_id>" in name for name in names)
        assert not any(re.search(r"[0-9a-f]{8}-", name) for name in names)

    def test_are_not_for_everybody(self, client: Client, settings: Any) -> None:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer "}):
            assert Client(headers=headers).get("/metrics").status_code == 403
        settings.LEDGER_METRICS_TOKEN = ""
        assert Client(headers={"Authorization": "Bearer "}).get("/metrics").status_code == 403
        staff = Client()
        staff.force_login(user_with("teller"))
        assert staff.get("/metrics").status_code == 403
        staff.force_login(user_with("supervisor"))
        assert staff.get("/metrics").status_code == 200


def expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    return [rule["expr"] for rule in rules] + [
        target["expr"] for panel in panels for target in panel["targets"]
    ]


def test_dashboard_and_alerts_ask_for_what_there_is(client: Client, send: Sender) -> None:
    send.open(balance=5)
    client.get("/healthz")
    text = client.get("/metrics").content.decode()
    there = set(re.findall(r"^(ledger_\w+)", text, re.MULTILINE))
    asked = {name for item in expressions() for name in re.findall(r"ledger_\w+", item)}
    assert len(asked) > 20
    assert asked <= there


class TestLogs:
    def test_every_line_of_a_request_names_it(
        self, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        handler = logging.StreamHandler()
        handler.setFormatter(_formatter("json"))
        handler.emit = lambda record: seen.append(handler.format(record))  # type: ignore[method-assign]
        log = logging.getLogger("test.request")
        log.addHandler(handler)
        real = store.read_log

        def read_log(**asked: Any) -> Any:
            log.warning("reading %s", "the log", extra={"after": asked["after"]})
            return real(**asked)

        monkeypatch.setattr(store, "read_log", read_log)
        answer = api.get("events?limit=1", **{"X-Correlation-Id": "order-7"})
        assert answer["X-Correlation-Id"] == "order-7"
        log.warning("outside of any request")
        first, second = map(json.loads, seen)
        assert first["correlation_id"] == "order-7"
        assert (first["event"], first["after"], first["level"]) == ("reading the log", 0, "warning")
        assert "correlation_id" not in second

    def test_the_way_of_an_event_can_be_followed(
        self, api: Api, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.LEDGER_TRACE = True
        with caplog.at_level("INFO", "ledger.trace"):
            account = api.open()
            answer = api.post(
                f"accounts/{account}/deposits", {"amount": "1", "currency": "EUR"},
                **{"X-Correlation-Id": "order-8"},
            )  # fmt: skip
        lines = [
            item for item in caplog.records if getattr(item, "correlation_id", "") == "order-8"
        ]
        assert [line.getMessage() for line in lines] == ["committed"]
        assert lines[0].__dict__["command_id"] == answer.json()["command_id"]


def _formatter(name: str) -> Any:
    formatters: Any = django_settings.LOGGING["formatters"]
    chosen = dict(formatters[name])
    return chosen.pop("()")(**chosen)


@pytest.mark.parametrize("form", ["line", "json"])
def test_a_traceback_shows_no_variables(form: str) -> None:
    """They hold tokens, passwords, and whole batches of events."""
    try:
        secret = "hunter" + "2"
        raise ValueError(len(secret))
    except ValueError:
        record = logging.getLogger("t").makeRecord(
            "t", logging.ERROR, "f", 1, "failed", (), sys.exc_info()
        )
    text = _formatter(form).format(record)
    assert "ValueError: 7" in text
    assert "hunter2" not in text
