"""A bug planted in `evolve` is found by the mended code, in every account that it touched."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from msgspec.structs import replace

from audit import replay, replays
from ledger import codec, handlers, history, store
from ledger.domain import commands as c
from ledger.domain import decide as decisions
from ledger.domain import events as e
from ledger.domain import state
from ledger.domain.state import Account
from ledger.models import Access
from tests.conftest import Sender, user_with

TRUE = state.evolve


def forgets_captures(account: Account, event: e.Event) -> Account:
    after = TRUE(account, event)
    return replace(after, balance=account.balance) if isinstance(event, e.HoldCaptured) else after


def adds_adjustments_twice(account: Account, event: e.Event) -> Account:
    after = TRUE(account, event)
    if isinstance(event, e.BalanceAdjusted):
        return replace(after, balance=after.balance + event.delta)
    return after


def never_freezes(account: Account, event: e.Event) -> Account:
    after = TRUE(account, event)
    return replace(after, status="open") if isinstance(event, e.AccountFrozen) else after


@contextmanager
def older_code(evolve: Any) -> Iterator[None]:
    """Heads and snapshots are made by `evolve` for a while, under a schema of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (handlers, history, decisions, state):
            patch.setattr(module, "evolve", evolve)
        for module in (handlers, history, codec):
            patch.setattr(module, "STATE_SCHEMA", "older")
        yield


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, own_log: str) -> None:
    monkeypatch.setattr(history, "COPIES", {})


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    out = StringIO()
    try:
        call_command("replay", "--json", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as stopped:
        return int(str(stopped.code)), json.loads(out.getvalue())
    return 0, json.loads(out.getvalue())


def history_of(send: Sender, command: Any) -> tuple[str, int]:
    """An account with snapshots, and `command` at version 152; the version it got."""
    account = send.open(balance=100_000)
    for _ in range(149):
        send(c.Deposit(account_id=account, amount=7, currency="EUR"))
    outcome = send(command(send, account))
    assert outcome.error is None, outcome.error
    for _ in range(80):
        send(c.Deposit(account_id=account, amount=7, currency="EUR"))
    return account, outcome.events[-1].version


def capture(send: Sender, account: str) -> c.Command:
    held = send(c.PlaceHold(account_id=account, amount=1_234, currency="EUR"))
    return c.CaptureHold(account_id=account, hold_id=held.command_id)


def adjust(_: Sender, account: str) -> c.Command:
    return c.AdjustBalance(account_id=account, amount=555, currency="EUR", reason="test")


@pytest.mark.usefixtures("quiet")
class TestReplay:
    @pytest.mark.parametrize(
        ("bug", "command", "words"),
        [
            (forgets_captures, capture, "HoldCaptured was left out"),
            (adds_adjustments_twice, adjust, "BalanceAdjusted counted twice"),
        ],
    )
    def test_a_planted_bug_is_located_at_its_event(
        self, send_own: Sender, bug: Any, command: Any, words: str
    ) -> None:
        with older_code(bug):
            account, version = history_of(send_own, command)
            bystander = send_own.open(balance=5)
        code, found = run()
        assert code == 1
        assert found["accounts"] == 2
        [parting] = found["partings"]
        assert (parting["account_id"], parting["field"]) == (account, "balance")
        assert (parting["suspect"], parting["suspicion"]) == (version, words)
        assert (parting["agrees"], parting["differs"]) == (100, 200)
        assert bystander != account

    def test_what_is_not_money_is_bounded_by_snapshots(self, send_own: Sender) -> None:
        with older_code(never_freezes):
            account = send_own.open(balance=100_000)
            send_own(c.FreezeAccount(account_id=account, reason="test"))
        code, found = run()
        [parting] = found["partings"]
        assert code == 1
        assert (parting["field"], parting["stored"], parting["replayed"]) == (
            "status",
            "open",
            "frozen",
        )
        assert (parting["agrees"], parting["differs"]) == (0, 3)

    def test_swap_makes_everything_anew(
        self, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with older_code(adds_adjustments_twice):
            account, _ = history_of(send_own, adjust)
            wrong = store.read_heads([account])[account][0]
        assert wrong.state_schema == "older"
        call_command("rebuild_state", stdout=StringIO())
        code, found = run()
        assert (code, found["differing"], found["older"]) == (0, 0, 0)

    def test_nothing_differs_when_the_code_is_right(self, send_own: Sender) -> None:
        history_of(send_own, adjust)
        code, found = run()
        assert (code, found["differing"]) == (0, 0)
        assert found["compared"] >= 3

    def test_a_copy_elsewhere_is_compared(
        self, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = send_own.open(balance=5_000)
        wrong = replace(history.current(account)[0], balance=4_999)
        copy = history.Copy(version=2, position=2, state=codec.encode(wrong), is_behind=False)
        monkeypatch.setattr(history, "COPIES", {"Redis": lambda _: {account: copy}})
        report = replay.replay(schema=codec.STATE_SCHEMA)
        [parting] = report.partings
        assert (parting.where, parting.stored, parting.replayed) == ("Redis", 4_999, 5_000)


@pytest.mark.usefixtures("quiet")
class TestPage:
    @pytest.fixture
    def client(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Client:
        """As a supervisor; what a page hands to a worker is done at once."""
        settings.ALLOWED_HOSTS = ["*"]
        tasks = {"audit.replay": replays.run, "audit.swap": replays.run_swap}
        monkeypatch.setattr(replays, "_send", lambda task, row: tasks[task](row.pk))
        monkeypatch.setattr(
            replays, "call_command",
            lambda name, **options: name == "rebuild_state" and call_command(name, **options),
        )  # fmt: skip
        client = Client()
        client.force_login(user_with("supervisor"))
        return client

    def test_finds_shows_and_swaps(self, client: Client, send_own: Sender) -> None:
        with older_code(adds_adjustments_twice):
            account, version = history_of(send_own, adjust)
        answer = client.post("/replays", {"reason": "mended adjustments"})
        assert answer.status_code == 302, answer.content
        shown = client.get(answer["Location"]).content.decode()
        assert f"event {version}: BalanceAdjusted counted twice" in shown
        assert f"/accounts/{account}/timeline?version={version}" in shown
        assert client.post(answer["Location"]).status_code == 302
        assert "swapped" in client.get(answer["Location"]).content.decode()
        assert client.post(answer["Location"]).status_code == 409, "once"
        again = client.post("/replays", {"reason": "to be sure"})["Location"]
        assert "nothing to swap" in client.get(again).content.decode()
        looked = [row.what for row in Access.objects.order_by("number")]
        swaps = ["swap after replay 1"] * 2  # the one that was refused too
        assert looked == ["replay of the log", *swaps, "replay of the log"]

    def test_one_at_a_time_and_a_lost_one_does_not_block(
        self, client: Client, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replays, "_send", lambda *_: None)
        assert client.post("/replays", {"reason": "first"}).status_code == 302
        assert client.post("/replays", {"reason": "second"}).status_code == 400
        monkeypatch.setattr(replays, "LOST_AFTER", timedelta(0))
        assert "its worker is gone" in client.get("/replays/1").content.decode()
        assert client.post("/replays", {"reason": "third"}).status_code == 302

    def test_who_may(self, client: Client, send_own: Sender) -> None:
        assert client.post("/replays", {"reason": ""}).status_code == 400
        client.force_login(user_with("auditor"))
        assert client.get("/replays").status_code == 200
        assert client.post("/replays", {"reason": "case 9"}).status_code == 403
        client.force_login(user_with("teller"))
        assert client.get("/replays").status_code == 403
        assert client.get("/replays/7").status_code == 403
