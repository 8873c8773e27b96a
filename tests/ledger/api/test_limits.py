"""Rate limits: who has how many, what clients are told, and that a rest refills."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from ledger.api import limits
from tests.conftest import Api


@pytest.fixture(autouse=True)
def still(
    no_rates: None, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Callable[[float], None]:
    """Time stands still but for what the test lets pass; three requests a second for everybody."""
    now = [1000.0]
    monkeypatch.setattr(limits, "buckets", limits._Buckets())
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    settings.LEDGER_RATES = {"anonymous": 1, "customer": 2, "staff": 3, "service": 0}

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return sleep


def codes(api: Api, count: int) -> list[int]:
    return [api.get("accounts").status_code for _ in range(count)]


class TestRates:
    def test_a_burst_and_then_the_rate(self, api: Api, still: Callable[[float], None]) -> None:
        assert codes(api, 8) == [200] * 6 + [429] * 2
        still(0.34)
        assert codes(api, 2) == [200, 429]
        still(100)
        assert codes(api, 7) == [200] * 6 + [429]

    def test_clients_are_told(self, api: Api) -> None:
        first = api.get("accounts")
        assert first["RateLimit-Policy"] == '"default";q=6;w=2'
        assert first["RateLimit"] == '"default";r=5;t=1'
        codes(api, 5)
        refused = api.get("accounts")
        assert (refused.status_code, refused["Retry-After"]) == (429, "2")
        assert refused["RateLimit"] == '"default";r=0;t=1'
        assert refused["Content-Type"] == "application/problem+json"
        assert refused.json()["code"] == "throttled"

    def test_each_sender_has_its_own(self, api_as: Callable[[str], Api], api: Api) -> None:
        assert codes(api, 7)[-1] == 429
        assert codes(api_as("customer"), 5) == [200] * 4 + [429]
        assert codes(api_as("teller"), 1) == [200]

    def test_programs_are_not_limited(self, api_as: Callable[[str], Api]) -> None:
        answer = api_as("service").get("accounts")
        assert "RateLimit" not in answer.headers
        assert set(codes(api_as("service"), 50)) == {200}

    def test_strangers_are_limited_by_address(self, api_as: Callable[[str], Api]) -> None:
        assert codes(api_as(""), 4) == [401] * 4, "who is not signed in never gets that far"

    def test_a_refused_command_was_not_decided(self, api: Api) -> None:
        codes(api, 6)
        key = "only-once"
        body = {"holder": "x", "currency": "EUR"}
        assert api.post("accounts", body, key=key).status_code == 429
        limits.buckets._left.clear()
        done = api.post("accounts", body, key=key)
        assert done.status_code == 201
        assert "Idempotent-Replayed" not in done.headers
