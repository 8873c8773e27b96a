"""Reads by people are recorded with a reason, and the record is as hard to change as the log."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from audit import checks, notes, seals
from ledger import looks, store
from ledger.domain import commands as c
from ledger.models import Access
from tests.conftest import Api, Sender, in_threads, superuser, user_with

TIMELINE = "admin:ledger_account_timeline"


@pytest.fixture
def account(send: Sender) -> str:
    return send.open(balance=5_000)


@pytest.fixture
def page_as(live_db: None, settings: Any) -> Callable[[str], Client]:
    settings.ALLOWED_HOSTS = ["*"]

    def make(role: str) -> Client:
        client = Client()
        client.force_login(user_with(role))
        return client

    return make


def seen(account: str) -> list[tuple[str, str, str, str, str]]:
    rows = Access.objects.filter(account_id=account).order_by("number")
    return [(row.actor, row.what, row.moment, row.reason, row.channel) for row in rows]


class TestRest:
    def test_a_look_is_recorded_with_who_what_when_and_why(
        self, api_as: Callable[[str], Api], account: str
    ) -> None:
        api_as("supervisor").get(f"accounts/{account}/state?version=2", **{"Read-Reason": "T-9"})
        api_as("teller").get(f"accounts/{account}", **{"Read-Reason": ""})
        assert seen(account) == [
            ("test-supervisor", "state", "version=2", "T-9", "api"),
            ("test-teller", "account", "", "", "api"),
        ]

    @pytest.mark.parametrize("path", ["state?version=1", "events", "difference?from_version=1"])
    @pytest.mark.parametrize("reason", ["", "x", "  a ", "line\nbreak", "y" * 201])
    def test_the_past_is_not_shown_without_a_reason(
        self, api_as: Callable[[str], Api], account: str, path: str, reason: str
    ) -> None:
        answer = api_as("auditor").get(f"accounts/{account}/{path}", **{"Read-Reason": reason})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "Read-Reason"
        assert seen(account) == []

    def test_programs_need_no_reason_and_are_not_recorded(
        self, api_as: Callable[[str], Api], account: str
    ) -> None:
        answer = api_as("service").get(f"accounts/{account}/state?version=2", **{"Read-Reason": ""})
        assert answer.status_code == 200
        assert seen(account) == []

    def test_a_command_is_a_look_at_every_account_that_it_moved(
        self, api_as: Callable[[str], Api], send: Sender, account: str
    ) -> None:
        other = send.open()
        done = send(
            c.Transfer(from_account_id=account, to_account_id=other, amount=1, currency="EUR")
        )
        assert api_as("auditor").get(f"commands/{done.command_id}").status_code == 200
        assert [row[1] for row in seen(account)] == [row[1] for row in seen(other)] == ["command"]

    def test_auditors_see_who_looked(self, api_as: Callable[[str], Api], account: str) -> None:
        for number in range(3):
            api_as("teller").get(f"accounts/{account}", **{"Read-Reason": f"call {number}"})
        auditor = api_as("auditor")
        first = auditor.get(f"accounts/{account}/looks?limit=2").json()
        rest = auditor.get(f"accounts/{account}/looks?after={first['next_cursor']}").json()
        reasons = [item["reason"] for item in first["data"] + rest["data"]]
        assert reasons == ["call 0", "call 1", "call 2"]
        assert (first["has_more"], rest["has_more"]) == (True, False)
        assert api_as("teller").get(f"accounts/{account}/looks").status_code == 403


class TestPages:
    def test_staff_are_recorded_and_customers_are_not(
        self, page_as: Callable[[str], Client], send: Sender
    ) -> None:
        account = send.open(owner="test-customer")
        assert page_as("customer").get(f"/accounts/{account}").status_code == 200
        assert seen(account) == []
        page_as("teller").get(f"/accounts/{account}")
        page_as("teller").get(f"/accounts/{account}/deposit")
        page_as("teller").get(f"/accounts/{account}/live")  # part of the page, not another look
        assert [row[:2] for row in seen(account)] == [("test-teller", "account")] * 2

    def test_a_search_is_recorded_with_its_words(self, page_as: Callable[[str], Client]) -> None:
        page_as("supervisor").get("/search?q=Nobody+Special")
        last = Access.objects.filter(actor="test-supervisor").first()
        assert last is not None
        assert (last.what, last.moment, last.account_id) == ("search", "q=Nobody+Special", None)

    def test_the_timeline_asks_why_and_goes_on_to_the_same_moment(
        self, page_as: Callable[[str], Client], account: str
    ) -> None:
        client = page_as("auditor")
        url = reverse(TIMELINE, args=[account]) + "?version=1"
        asked = client.get(url)
        assert asked.status_code == 403
        page = asked.content.decode()
        assert "50.00" not in page
        assert seen(account) == []
        target = re.search(r'name="next" value="([^"]+)"', page)
        assert target is not None
        bad = client.post(reverse("admin:read_reason"), {"reason": " ", "next": target[1]})
        assert bad.status_code == 400
        good = client.post(
            reverse("admin:read_reason"), {"reason": "complaint 12", "next": target[1]}
        )
        assert good["Location"] == url
        assert "complaint 12" in client.get(url).content.decode()
        assert seen(account) == [("test-auditor", "timeline", "version=1", "complaint 12", "admin")]

    @pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:1"])
    def test_the_reason_page_leads_nowhere_else(
        self, page_as: Callable[[str], Client], target: str
    ) -> None:
        answer = page_as("auditor").post(
            reverse("admin:read_reason"), {"reason": "case", "next": target}
        )
        assert answer["Location"] == reverse("admin:index")

    def test_a_reason_holds_for_an_hour(
        self, page_as: Callable[[str], Client], account: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = page_as("auditor")
        client.post(reverse("admin:read_reason"), {"reason": "case"})
        url = reverse(TIMELINE, args=[account])
        assert client.get(url).status_code == 200
        monkeypatch.setattr(looks, "REASON_SECONDS", -1)
        client.post(reverse("admin:read_reason"), {"reason": "case"})
        assert client.get(url).status_code == 403

    def test_every_admin_page_about_accounts_asks_first(
        self, page_as: Callable[[str], Client], account: str
    ) -> None:
        client = page_as("auditor")
        for model in ("event", "command", "account", "snapshot"):
            answer = client.get(reverse(f"admin:ledger_{model}_changelist"))
            assert answer.status_code == 403, model
        row = store.read_stream(account)[0]
        assert client.get(f"/admin/ledger/event/{row.position}/change/").status_code == 403
        client.post(reverse("admin:read_reason"), {"reason": "case"})
        assert client.get(f"/admin/ledger/event/{row.position}/change/").status_code == 200
        assert seen(account)[0][1:4] == ("event", f"event {row.position}", "case")


class TestRecord:
    def test_numbers_have_no_gap_and_time_never_falls_under_concurrency(self, own_log: str) -> None:
        user = user_with("teller")

        def look(_: int) -> None:
            for _ in range(25):
                looks.record(user, "x", channel="test")

        in_threads(8, look)
        rows = list(Access.objects.order_by("number").values_list("number", "at"))
        assert [number for number, _ in rows] == list(range(1, 201))
        assert [at for _, at in rows] == sorted(at for _, at in rows)

    def test_its_lock_is_nobody_elses(self, own_log: str) -> None:
        """A relay, a rebuild, a seal and a pass may be at work, each with a lock held for long."""
        numbers = set(store.Lock) - {store.Lock.LOOKS}
        with superuser(own_log) as admin:
            for number in numbers:
                admin.execute("SELECT pg_advisory_lock(%s)", [number])
            looks.record(user_with("teller"), "x", channel="test")
        assert Access.objects.count() == 1

    def test_cannot_be_written_but_by_its_function_nor_changed_by_anybody(
        self, own_log: str
    ) -> None:
        looks.record(user_with("teller"), "x", channel="test")
        with connection.cursor() as cursor:
            for sql in (
                "INSERT INTO ledger_access SELECT * FROM ledger_access",
                "UPDATE ledger_access SET actor = 'x'",
                "DELETE FROM ledger_access",
            ):
                with pytest.raises(Exception, match="permission denied"):
                    cursor.execute(sql)
        with superuser(own_log) as admin:
            for sql in (
                "UPDATE ledger_access SET actor = 'x'",
                "DELETE FROM ledger_access",
                "TRUNCATE ledger_access",
            ):
                with pytest.raises(Exception, match="append-only"):
                    admin.execute(sql)

    CHANGES = (
        "actor = 'x'", "what = 'y'", "moment = 'x'", "reason = 'x'", "channel = 'x'",
        "correlation_id = 'x'", "account_id = gen_random_uuid()",
        "at = at + interval '1 microsecond'", "leaf_hash = sha256('x')",
    )  # fmt: skip

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_of_any_column_is_found(self, own_log: str, change: str) -> None:
        for _ in range(3):
            looks.record(user_with("teller"), "x", channel="test")
        assert checks.check_log().findings == []
        self.tamper(own_log, f"UPDATE ledger_access SET {change} WHERE number = 2")
        found = checks.check_log().findings
        assert [item.row for item in found] == ["look 2"]
        assert change.partition(" ")[0] in found[0].column or "leaf_hash" in change

    def test_every_column_is_tried(self) -> None:
        tried = {change.partition(" ")[0] for change in self.CHANGES}
        assert {field.name for field in Access._meta.fields} == tried | {"number"}

    def test_a_removed_or_rewritten_look_is_found_by_its_seal(
        self, own_log: str, settings: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "seal.key"
        path.write_text(notes.Signer.generate("example.org/ledger"))
        settings.LEDGER_SEAL_KEYS = [str(path)]
        for _ in range(300):
            looks.record(user_with("teller"), "x", channel="test")
        sealed = seals.seal("reads")
        assert sealed is not None
        assert sealed.note.startswith("example.org/ledger/reads\n300\n")
        assert checks.check_log().findings == []
        self.tamper(own_log, "UPDATE ledger_access SET reason = 'harmless' WHERE number = 7")
        leaf = store.read_accesses(7, 7)[0].expected
        self.tamper(
            own_log, f"UPDATE ledger_access SET leaf_hash = '\\x{leaf.hex()}' WHERE number = 7"
        )
        assert [item.row for item in checks.check_log().findings] == [
            "reads 1 to 256", "seal of 300 reads",
        ]  # fmt: skip
        self.tamper(own_log, "DELETE FROM ledger_access WHERE number > 298")
        rows = [item.row for item in checks.check_log().findings]
        assert "seal of 300 reads" in rows

    def tamper(self, database: str, sql: str) -> None:
        with superuser(database) as admin:
            admin.execute("ALTER TABLE ledger_access DISABLE TRIGGER ALL")
            admin.execute(sql)
