"""The screens about the past, as the back office and the admin show them."""

import csv
import html
import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import openpyxl
import pytest
from django.contrib.auth.models import User
from django.test import Client

from audit import explained, screens
from ledger import codec, store
from ledger.domain import commands as c
from ledger.models import Access
from tests.conftest import Sender, user_with


@pytest.fixture
def account(send: Sender, settings: Any) -> str:
    """Opened, 1,000.00 in, the same 80.00 out twice, 30.00 refused for want of money."""
    settings.ALLOWED_HOSTS = ["*"]
    made = send.open(balance=100_000)
    for _ in range(2):
        send(c.Withdraw(account_id=made, amount=8_000, currency="EUR", counterpart="card"))
    send(c.Withdraw(account_id=made, amount=99_999_900, currency="EUR"))
    return made


def signed_in(role: str, *, reason: str = "case 17") -> Client:
    client = Client()
    client.force_login(user_with(role))
    if reason:
        client.post("/reason", {"reason": reason})
    return client


def text_of(answer: Any) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.content.decode())).split())


LAYOUTS = [("supervisor", "/accounts/{}/{}"), ("auditor", "/admin/ledger/account/{}/{}/")]


@pytest.mark.parametrize(("role", "url"), LAYOUTS)
class TestExplain:
    def ask(self, role: str, url: str, account: str, query: str) -> tuple[int, str]:
        answer = signed_in(role).get(url.format(account, "explain") + query)
        return answer.status_code, text_of(answer)

    def test_without_a_figure_there_is_only_the_form(
        self, account: str, role: str, url: str
    ) -> None:
        status, page = self.ask(role, url, account, "")
        assert status == 200
        assert "Type the balance that the customer expects" in page

    def test_the_doubled_entry_comes_first(self, account: str, role: str, url: str) -> None:
        status, page = self.ask(role, url, account, "?expected=920.00")
        assert status == 200
        assert "The ledger says 840.00 Expected 920.00 Difference \u221280.00" in page
        assert page.index("Entered twice") < page.index("event 4: withdrawal \u221280.00")
        assert ("Adjust by 80.00" in page) == (role == "supervisor")
        assert ("reverse it" in page) == (role == "supervisor")

    def test_a_refusal_is_evidence(self, account: str, role: str, url: str) -> None:
        _, page = self.ask(role, url, account, "?expected=-999,159.00")
        assert "Refused" in page
        assert "insufficient_funds" in page

    def test_what_is_older_than_the_events_searched_is_a_link_away(
        self, account: str, role: str, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(explained, "ENTRIES_MAX", 2)
        client, address = signed_in(role), url.format(account, "explain")
        first = client.get(f"{address}?expected=-160.00")
        assert "event 2: deposit" not in text_of(first)
        link = re.search(r'id="older" href="([^"]*)"', first.content.decode())
        assert link is not None
        older = text_of(client.get(address + html.unescape(link[1])))
        assert "event 2: deposit +1,000.00" in older
        assert "2 events searched, before the latest 2." in older

    def test_as_expected(self, account: str, role: str, url: str) -> None:
        _, page = self.ask(role, url, account, "?expected=840")
        assert "There is nothing to explain" in page

    def test_at_an_earlier_moment_what_came_later_is_late(
        self, account: str, role: str, url: str
    ) -> None:
        _, page = self.ask(role, url, account, "?expected=840.00&version=3")
        assert "Recorded later" in page

    @pytest.mark.parametrize(
        "query", ["?expected=1,5", "?expected=1.005", "?expected=a", "?expected=1&version=99"]
    )
    def test_what_is_wrong_with_the_question(
        self, account: str, role: str, url: str, query: str
    ) -> None:
        status, _ = self.ask(role, url, account, query)
        assert status == 400


@pytest.mark.parametrize(("role", "url"), LAYOUTS)
class TestTimeline:
    def test_a_moment_in_the_readers_zone(self, account: str, role: str, url: str) -> None:
        [_, deposit, *_] = store.read_stream(account)
        local = deposit.recorded_at + timedelta(hours=5, minutes=45)  # Kathmandu has no summer time
        client = signed_in(role)
        client.cookies["zone"] = "Asia/Kathmandu"
        said = local.isoformat(sep=" ", timespec="microseconds")[:26]
        page = text_of(client.get(url.format(account, "timeline"), {"as_of": said}))
        assert "This answer ends with version 2" in page
        assert f"recorded {said} +05:45" in page

    def test_a_difference_adds_up_and_lists_what_lies_between(
        self, account: str, role: str, url: str
    ) -> None:
        page = text_of(signed_in(role).get(url.format(account, "timeline") + "?compare=1"))
        assert "Difference: version 1 to 4 (3 events)" in page
        assert "0.00 +840.00 = 840.00 adds up" in page

    def test_compared_with_a_moment(self, account: str, role: str, url: str) -> None:
        [_, deposit, *_] = store.read_stream(account)
        moment = codec.format_time(deposit.recorded_at)
        page = text_of(signed_in(role).get(url.format(account, "timeline"), {"compare": moment}))
        assert "Difference: version 2 to 4 (2 events)" in page

    def test_the_permanent_link_gives_the_same_page(
        self, account: str, send: Sender, role: str, url: str
    ) -> None:
        client = signed_in(role)
        first = client.get(url.format(account, "timeline")).content.decode()
        found = re.search(r'id="permanent" href="([^"]*)"', first)
        assert found is not None
        link = url.format(account, "timeline") + html.unescape(found[1])
        before = text_of(client.get(link))
        send(c.Deposit(account_id=account, amount=1, currency="EUR"))
        after = text_of(client.get(link))
        figures = slice("State at this moment", "Events around it")
        assert _between(before, figures) == _between(after, figures)


@pytest.mark.parametrize(("role", "url"), LAYOUTS)
class TestKnown:
    def test_four_figures_and_what_changed_them(
        self, send: Sender, settings: Any, role: str, url: str
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        old = datetime(2026, 3, 1, tzinfo=UTC)
        account = send.open(effective_at=datetime(2026, 1, 1, tzinfo=UTC))
        first = send(c.Deposit(account_id=account, amount=100_00, currency="EUR", effective_at=old))
        late = send(c.Withdraw(account_id=account, amount=30_00, currency="EUR", effective_at=old))
        send(c.Deposit(account_id=account, amount=1_00, currency="EUR"))  # counts today only
        assert first.recorded_at is not None
        assert late.recorded_at is not None
        asked = {
            "effective_a": "2026-02-28",
            "effective_b": "2026-03-31",
            "known_a": codec.format_time(first.recorded_at),
            "known_b": codec.format_time(store.clock()),
        }
        page = text_of(signed_in(role).get(url.format(account, "known"), asked))
        assert "counting by 2026-02-28 23:59:59.999999 +00:00 0.00 0.00 0.00" in page
        assert "counting by 2026-03-31 23:59:59.999999 +00:00 100.00 70.00 \u221230.00" in page
        assert "counting by then: 1 event" in page
        assert "Together they are the change" in page

    @pytest.mark.parametrize(
        "query",
        ["?known_a=yesterday", "?known_a=2999-01-01&effective_a=2026-01-01",
         "?known_a=2026-11-20&known_b=2026-11-10&effective_a=2026-01-01"],
    )  # fmt: skip
    def test_what_is_wrong(self, account: str, role: str, url: str, query: str) -> None:
        assert signed_in(role).get(url.format(account, "known") + query).status_code == 400


@pytest.mark.parametrize(("role", "url"), LAYOUTS)
class TestWhatIf:
    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("command=Withdraw&amount=900&version=2", "It would have been accepted: withdrawal"),
            ("command=Withdraw&amount=900", "It would have been refused"),
            ("command=Withdraw&amount=0.01&version=1", "It would have been refused"),
            ("command=CloseAccount&version=1", "It would have been accepted: close"),
            ("command=PlaceHold&amount=840", "It would have been accepted: hold"),
        ],
    )
    def test_the_rules_at_a_moment(
        self, account: str, role: str, url: str, query: str, words: str
    ) -> None:
        before = store.last_position()
        answer = signed_in(role).get(url.format(account, "what-if") + "?" + query)
        assert answer.status_code == 200
        assert words in text_of(answer)
        assert store.last_position() == before

    def test_a_transfer_to_an_account_that_was_not_there_yet(
        self, account: str, send: Sender, role: str, url: str
    ) -> None:
        other = send.open()
        ask = url.format(account, "what-if") + f"?command=Transfer&amount=1&to_account_id={other}"
        assert "would have been accepted" in text_of(signed_in(role).get(ask))
        assert "would have been refused" in text_of(signed_in(role).get(ask + "&version=2"))

    @pytest.mark.parametrize(
        "query", ["command=Steal", "command=Withdraw", "command=Withdraw&amount=-1"]
    )
    def test_what_is_wrong(self, account: str, role: str, url: str, query: str) -> None:
        assert signed_in(role).get(url.format(account, "what-if") + "?" + query).status_code == 400


class TestStatement:
    def fetch(self, account: str, query: str = "", role: str = "teller") -> Any:
        return signed_in(role).get(f"/accounts/{account}/statement{query}")

    def test_every_format_has_the_same_figures(self, account: str) -> None:
        page = text_of(self.fetch(account))
        assert "Closing balance 840.00 EUR" in page
        rows = list(
            csv.DictReader(io.StringIO(self.fetch(account, "?format=csv").content.decode()))
        )
        assert [row["balance"] for row in rows] == ["0.00", "1000.00", "920.00", "840.00"]
        book = openpyxl.load_workbook(io.BytesIO(self.fetch(account, "?format=xlsx").content))
        cells = [[cell.value for cell in row] for row in book.active.iter_rows()]  # type: ignore[union-attr]
        assert cells[0][6] == "balance"
        assert [row[6] for row in cells[1:]] == [0, 1000, 920, 840]
        assert self.fetch(account, "?format=pdf").content.startswith(b"%PDF")

    def test_a_workbook_runs_no_formula(self, send: Sender, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        account = send.open()
        send(
            c.Deposit(account_id=account, amount=1, currency="EUR", memo="=1+1", counterpart="cash")
        )
        book = openpyxl.load_workbook(io.BytesIO(self.fetch(account, "?format=xlsx").content))
        [*_, row] = book.active.iter_rows()  # type: ignore[union-attr]
        assert (row[9].value, row[9].data_type) == ("'=1+1", "s")

    def test_between_two_moments(self, account: str) -> None:
        events = store.read_stream(account)
        since, until = (codec.format_time(events[at].recorded_at) for at in (1, 2))
        answer = self.fetch(account, f"?format=csv&since={since}&until={until}")
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert [row["version"] for row in rows] == ["2", "3"]

    @pytest.mark.parametrize(
        "query", ["?format=exe", "?until=2020-01-01", "?since=2999-01-01", "?since=x"]
    )
    def test_what_is_wrong(self, account: str, query: str) -> None:
        assert self.fetch(account, query).status_code in (400, 404)

    def test_a_customer_gets_their_own_alone(self, send: Sender, account: str) -> None:
        own = send.open(owner=user_with("customer").get_username())
        assert self.fetch(own, role="customer").status_code == 200
        assert self.fetch(account, role="customer").status_code == 404


class TestWholeLedger:
    def test_sums_to_zero_at_any_moment(self, account: str) -> None:
        client = signed_in("auditor")
        [opened, *_] = store.read_stream(account)
        for query in ("", f"?position={opened.position}", "?as_of=1 minute ago"):
            page = text_of(client.get(f"/ledger{query}"))
            assert "Every currency sums to zero" in page
        assert client.get("/ledger?position=1&format=csv")["Content-Type"].startswith("text/csv")

    @pytest.mark.parametrize(
        "query", ["as_of=tomorrow", "position=99999999999", "position=x", "position=1&as_of=now"]
    )
    def test_what_is_wrong(self, account: str, query: str) -> None:
        assert signed_in("auditor").get(f"/ledger?{query}").status_code == 400

    def test_tellers_may_not(self, account: str) -> None:
        assert signed_in("teller").get("/ledger").status_code == 403


def _between(page: str, marks: slice) -> str:
    return page[page.index(marks.start) : page.index(marks.stop)]


class TestWhoMay:
    @pytest.mark.parametrize("screen", list(screens.SCREENS))
    def test_staff_state_a_reason_first_and_are_recorded(self, account: str, screen: str) -> None:
        client = signed_in("teller", reason="")
        url = f"/accounts/{account}/{screen}"
        asked = client.get(url)
        assert asked.status_code == 403
        assert "Why do you look?" in text_of(asked)
        assert not Access.objects.filter(account_id=account, what=screen).exists()
        done = client.post("/reason", {"reason": "complaint 9", "next": url}, follow=True)
        assert done.redirect_chain == [(url, 302)]
        assert done.status_code == 200
        [look] = Access.objects.filter(account_id=account, what=screen)
        assert (look.reason, look.channel) == ("complaint 9", "page")

    def test_a_bad_reason_is_asked_again(self, account: str) -> None:
        answer = signed_in("teller", reason="").post("/reason", {"reason": "x"})
        assert answer.status_code == 400
        assert "3 to 200 printable characters" in text_of(answer)

    def test_customers_see_their_own_and_need_no_reason(self, send: Sender, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        customer: User = user_with("customer")
        own = send.open(owner=customer.get_username())
        other = send.open()
        client = signed_in("customer", reason="")
        assert client.get(f"/accounts/{own}/timeline").status_code == 200
        assert client.get(f"/accounts/{other}/timeline").status_code == 404
        assert client.get(f"/accounts/{other}/explain?expected=1").status_code == 404

    def test_nobody_without_signing_in(self, account: str) -> None:
        answer = Client().get(f"/accounts/{account}/timeline")
        assert answer.status_code == 302
        assert answer["Location"].startswith("/login")


class TestSearch:
    @pytest.mark.parametrize("prefix", ["", "#"])
    def test_a_position_leads_to_its_transaction(self, account: str, prefix: str) -> None:
        [*_, event] = store.read_stream(account)
        answer = signed_in("teller").get("/search", {"q": f"{prefix}{event.position}"})
        assert answer["Location"] == f"/transactions/{event.metadata.command_id}"

    def test_beyond_the_end_is_a_search_like_any_other(self, account: str) -> None:
        answer = signed_in("teller").get("/search", {"q": "999999999999999"})
        assert answer.status_code == 200
