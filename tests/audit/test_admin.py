"""The auditor's admin: everything can be read, nothing written, by any role."""

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse

from audit import checker, notes, seals
from ledger import approvals, store
from ledger.admin_base import ReadOnlyAdmin
from ledger.domain import commands as c
from ledger.models import Account, Command, Event, Reconciliation, Snapshot
from projections.models import Generation, Relay
from tests.conftest import Sender, superuser, user_with

In = Callable[[str], Client]
MODELS = [Event, Command, Account, Snapshot, Generation, Relay]


@pytest.fixture
def sign_in(live_db: None, settings: Any) -> In:
    settings.ALLOWED_HOSTS = ["*"]

    def make(role: str) -> Client:
        client = Client()
        if role == "superuser":
            user, _ = User.objects.get_or_create(
                username="test-super", is_superuser=True, is_staff=True
            )
        else:
            user = user_with(role)
        client.force_login(user)
        client.post("/admin/reason/", {"reason": "case 17"})
        return client

    return make


@pytest.fixture
def account(send: Sender) -> str:
    made = send.open(balance=10_000)
    send(
        c.Withdraw(account_id=made, amount=2_500, currency="EUR", memo="<script>alert(1)</script>")
    )
    send(c.Withdraw(account_id=made, amount=99_999_999, currency="EUR"))
    return made


def urls(account: str) -> list[str]:
    found = [reverse("admin:index"), reverse("admin:ledger_account_timeline", args=[account])]
    for model in MODELS:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        found.append(reverse(f"{name}_changelist"))
        row = model._default_manager.order_by("-pk").first()
        if row is not None:
            found.append(reverse(f"{name}_change", args=[row.pk]))
    return found


class TestSignIn:
    @pytest.mark.parametrize("role", ["auditor", "superuser"])
    def test_from_the_front_door_to_the_page_that_was_asked_for(
        self, sign_in: In, role: str
    ) -> None:
        sign_in(role)
        user = User.objects.get(username="test-super") if role == "superuser" else user_with(role)
        user.set_password("correct horse")
        user.save()
        client = Client()
        wanted = reverse("admin:audit_integrity")
        asked = client.get(wanted, follow=True)
        form, status = asked.redirect_chain[-1]
        assert status == 302
        given = {"login": user.username, "password": "correct horse", "next": wanted}
        done = client.post(form, given, follow=True)
        assert done.redirect_chain == [(wanted, 302)]
        assert done.status_code == 200

    def test_who_may_not_is_told(self, sign_in: In) -> None:
        page = sign_in("teller").get("/admin/", follow=True).content.decode()
        assert "Your role does not allow that page" in page


class TestReadOnly:
    @pytest.mark.parametrize("role", ["auditor", "superuser"])
    def test_every_page_opens_and_none_writes(self, sign_in: In, account: str, role: str) -> None:
        client = sign_in(role)
        before = store.last_position()
        for url in urls(account):
            answer = client.get(url)
            assert answer.status_code == 200, url
            page = answer.content.decode()
            assert "<script>alert" not in page
            if "/ledger/" in url or "/projections/" in url:
                assert 'name="_save"' not in page
                assert "delete_selected" not in page
        for model in MODELS:
            name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
            row = model._default_manager.order_by("-pk").first()
            assert client.get(reverse(f"{name}_add")).status_code == 403
            assert client.post(reverse(f"{name}_add"), {}).status_code == 403
            if row is None:
                continue
            for word in ("change", "delete"):
                url = reverse(f"{name}_{word}", args=[row.pk])
                assert client.post(url, {"post": "yes"}).status_code == 403, url
            client.post(
                reverse(f"{name}_changelist"),
                {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"},
            )
            assert model._default_manager.filter(pk=row.pk).exists()
        assert store.last_position() == before

    @pytest.mark.parametrize("role", ["teller", "supervisor", "service", "customer"])
    def test_others_are_kept_out(self, sign_in: In, account: str, role: str) -> None:
        for url in urls(account):
            assert sign_in(role).get(url).status_code in (302, 403), url

    def test_every_ledger_model_uses_the_read_only_base(self) -> None:
        for model, page in admin.site._registry.items():
            if model._meta.app_label in ("ledger", "projections", "audit"):
                assert isinstance(page, ReadOnlyAdmin), model


class TestCrawl:
    """Every route there is, by every method, as an auditor: nothing is written, nothing breaks."""

    WRITES_OWN_THINGS = frozenset(
        {"login", "logout", "admin:login", "admin:logout", "admin:password_change",
         "admin:read_reason", "admin:autocomplete", "admin:jsi18n"}
    )  # fmt: skip

    def routes(self, account: str) -> Iterator[tuple[str, str]]:
        """Name and URL of every route, with arguments of things that are there."""
        command = Command.objects.filter(outcome="accepted").order_by("-number")[0]
        waiting = approvals.propose(
            user_with("supervisor"), "AdjustBalance",
            {"amount": "1.00", "currency": "EUR", "reason": "x"}, {"account_id": account},
            key=str(uuid4()), reason="x",
        )  # fmt: skip
        kept = Reconciliation.objects.create(
            id=str(uuid4()), account_id=account, file_name="f", made_by="x", statement={}
        )
        values = {
            "account_id": account, "command_id": str(command.pk), "proposal_id": str(waiting.pk), "reconciliation_id": str(kept.pk),
            "hold_id": str(uuid4()), "number": "1", "pk": "1",
            "job_id": str(uuid4()), "action": "deposit", "code": "not_found", "app_label": "ledger",
            "url": "no/such/page",
        }  # fmt: skip
        rows = {
            f"{model._meta.app_label}_{model._meta.model_name}": model._default_manager.first()
            for model in admin.site._registry
        }
        for names, pattern in _patterns(get_resolver()):
            name = ":".join(filter(None, names))
            row = rows.get("_".join(name.removeprefix("admin:").split("_")[:2]))
            given = {**values, "object_id": str(getattr(row, "pk", 1)), "id": "1"}
            wanted = {key: given[key] for key in pattern if key in given}
            if "content_type_id" in pattern or name == "":
                continue  # "view on site": no model has one
            yield name, reverse(name, kwargs=wanted)

    def test_every_route_by_every_method(self, sign_in: In, account: str) -> None:
        client = sign_in("auditor")
        client.raise_request_exception = False
        routes = list(self.routes(account))
        before = fingerprint()
        count = 0
        for name, url in routes:
            count += 1
            answer = client.get(url, headers={"Read-Reason": "case 17"})
            assert answer.status_code in (200, 302, 301, 400, 403, 404, 405, 503), (name, url)
            if name in self.WRITES_OWN_THINGS or name.startswith(("account_", "mfa_")):
                continue
            for method in ("post", "put", "patch", "delete"):
                answer = getattr(client, method)(
                    url, data={}, content_type="application/json",
                    headers={"Idempotency-Key": str(uuid4())},
                )  # fmt: skip
                # The admin renders some pages whatever the method: they do nothing else.
                rendered = answer.status_code in (200, 302) and name.startswith("admin:")
                assert rendered or answer.status_code in (400, 403, 404, 405), (method, name, url)
            form = client.post(url, {"_save": "Save", "post": "yes", "amount": "1", "reason": "x"})
            rendered = form.status_code == 200 and name.startswith("admin:")
            assert rendered or form.status_code in (302, 400, 403, 404, 405, 415), (name, url)
        assert count > 90
        assert fingerprint() == before

    def test_every_link_that_a_page_shows_opens(self, sign_in: In, account: str) -> None:
        """As an auditor would click: from the admin's index, three deep, each kind of page."""
        client = sign_in("auditor")
        client.raise_request_exception = False
        todo, done = [reverse("admin:index"), f"/accounts/{account}"], set[str]()
        kinds: dict[str, int] = {}
        while todo:
            url = todo.pop()
            kind = re.sub(r"[0-9a-f-]{36}|\d+|\?.*", "_", url)
            if url in done or kinds.get(kind, 0) >= 3 or "logout" in url:
                continue
            done.add(url)
            kinds[kind] = kinds.get(kind, 0) + 1
            answer = client.get(url)
            unsealed = (
                url.endswith(("/receipt", "/evidence/", "/evidence")) or "until_version" in url
            )
            expected = (404,) if unsealed else (200, 302)
            assert answer.status_code in expected, (url, answer.status_code)
            if answer.status_code == 200 and "html" in answer["Content-Type"]:
                links = re.findall(r'href="([^"#]+)"', answer.content.decode())
                todo += [urljoin(url, html.unescape(link)) for link in links if ":" not in link]
        assert len(kinds) > 25


def _patterns(
    resolver: Any, namespaces: tuple[str, ...] = (), inherited: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    for item in resolver.url_patterns:
        own = (*inherited, *item.pattern.converters, *item.pattern.regex.groupindex)
        if hasattr(item, "url_patterns"):
            inner = (*namespaces, item.namespace) if item.namespace else namespaces
            yield from _patterns(item, inner, own)
        elif item.name:
            yield (*namespaces, item.name), own


def fingerprint() -> dict[str, str]:
    """Of every table but those that looking changes."""
    changes = {
        "ledger_access",
        "django_session",
        "auth_user",
        "audit_pass",
        "audit_seal",
        "audit_node",
    }
    found = {}
    with connection.cursor() as cursor:
        for table in set(connection.introspection.table_names(cursor)) - changes:
            cursor.execute(
                f'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM "{table}" t'
            )
            found[table] = str(cursor.fetchone()[0])
    return found


class TestTimeline:
    def shown(self, client: Client, account: str, query: str) -> str:
        url = reverse("admin:ledger_account_timeline", args=[account])
        answer = client.get(f"{url}?{query}")
        assert answer.status_code == 200, answer.content
        return " ".join(answer.content.decode().split())

    def test_shows_the_account_at_a_moment(self, sign_in: In, account: str) -> None:
        client = sign_in("auditor")
        events = store.read_stream(account)
        then = events[1].recorded_at.isoformat().replace("+00:00", "Z")
        page = self.shown(client, account, f"as_of={then}")
        assert '<td id="balance">100.00</td>' in page
        assert "event 2 of 3" in page
        assert f"position <strong>{events[1].position}</strong>" in page
        assert '<td id="balance">75.00</td>' in self.shown(client, account, "")
        assert '<td id="balance">0.00</td>' in self.shown(client, account, "version=1")

    def test_compares_two_moments(self, sign_in: In, account: str) -> None:
        page = self.shown(sign_in("auditor"), account, "version=3&compare=1")
        assert '<th scope="row">balance</th><td>0.00</td><td>75.00</td>' in page

    @pytest.mark.parametrize(
        "query",
        ["as_of=tomorrow", "as_of=2999-01-01", "version=99", "version=0", "version=x", "compare=99",
         "version=1&as_of=2026-01-01", "position=99999999999999", "as_of=%00"],
    )  # fmt: skip
    def test_says_what_is_wrong_with_a_moment(self, sign_in: In, account: str, query: str) -> None:
        url = reverse("admin:ledger_account_timeline", args=[account])
        answer = sign_in("auditor").get(f"{url}?{query}")
        assert answer.status_code == (404 if query == "version=0" else 400)
        assert 'class="errornote problem"' in answer.content.decode()

    def test_of_an_unknown_account_says_so(self, sign_in: In) -> None:
        url = reverse("admin:ledger_account_timeline", args=[uuid4()])
        assert sign_in("auditor").get(url).status_code == 404


class TestSearch:
    @pytest.mark.parametrize("term", ["%00", "x", "99999999999999999999999", "1e9", "-1", "'; --"])
    def test_of_anything_is_no_error(self, sign_in: In, account: str, term: str) -> None:
        client = sign_in("auditor")
        for model in MODELS:
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
            assert client.get(f"{url}?q={term}").status_code in (200, 302)

    def test_finds_refusals_of_an_account(self, sign_in: In, account: str) -> None:
        url = reverse("admin:ledger_command_changelist")
        page = sign_in("auditor").get(f"{url}?q={account}").content.decode()
        assert "rejected" in page

    def test_lists_take_the_same_queries_for_any_number_of_rows(
        self, sign_in: In, send: Sender
    ) -> None:
        client = sign_in("auditor")
        url = reverse("admin:ledger_event_changelist")

        def count() -> int:
            with CaptureQueriesContext(connection) as queries:
                client.get(url)
            return len(queries)

        first = count()
        for _ in range(30):
            send.open()
        assert count() == first <= 15


class TestProof:
    @pytest.fixture
    def sealed(self, send_own: Sender, settings: Any, tmp_path: Path) -> str:
        settings.ALLOWED_HOSTS = ["*"]
        path = tmp_path / "seal.key"
        path.write_text(notes.Signer.generate("example.org/ledger"))
        settings.LEDGER_SEAL_KEYS = [str(path)]
        account = send_own.open(balance=900)
        for _ in range(300):
            send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
        seals.seal()
        return account

    def page(self, url: str) -> str:
        client = Client()
        client.force_login(user_with("auditor"))
        client.post("/admin/reason/", {"reason": "case 17"})
        answer = client.get(url)
        assert answer.status_code == 200
        return " ".join(answer.content.decode().split())

    def test_the_timeline_proves_the_event_it_shows(self, sealed: str, own_log: str) -> None:
        url = reverse("admin:ledger_account_timeline", args=[sealed]) + "?version=200"
        assert "the seal of 302 events" in self.page(url)
        assert '<strong class="good">holds</strong>' in self.page(url)
        with superuser(own_log) as admin_connection:
            admin_connection.execute("ALTER TABLE ledger_event DISABLE TRIGGER ALL")
            admin_connection.execute(
                'UPDATE ledger_event SET payload = payload || \'{"memo": "x"}\' WHERE version = 200'
            )
        assert "DOES NOT HOLD" in self.page(url)
        with superuser(own_log) as admin_connection:
            admin_connection.execute("ALTER TABLE audit_node DISABLE TRIGGER ALL")
            admin_connection.execute("DELETE FROM audit_node")
        assert "cannot be made" in self.page(url.replace("version=200", "version=290"))

    def test_integrity_says_what_was_checked_and_what_not(
        self, sealed: str, send_own: Sender
    ) -> None:
        url = reverse("admin:audit_integrity")
        assert "No pass has ended yet" in self.page(url)
        while (run := checker.work(budget_seconds=1)) is not None and run.finished_at is None:
            pass
        page = self.page(url)
        assert "No findings." in page
        assert "302 events" in page
        assert "none: every event was checked" in page
        assert "is found within" in page
        send_own(c.Deposit(account_id=sealed, amount=1, currency="EUR"))
        assert "position 303, recorded" in self.page(url)

    def test_findings_stand_on_the_page(self, sealed: str, own_log: str) -> None:
        with superuser(own_log) as admin_connection:
            admin_connection.execute(
                "UPDATE ledger_account SET state = state || '{\"balance\": 5}'"
            )
        while (run := checker.work(budget_seconds=1)) is not None and run.finished_at is None:
            pass
        page = self.page(reverse("admin:audit_integrity"))
        assert f"head of {sealed}" in page
        assert "1 finding" in page
