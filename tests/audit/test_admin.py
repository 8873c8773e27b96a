"""The auditor's admin: everything can be read, nothing written, by any role."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from ledger import store
from ledger.admin_base import ReadOnlyAdmin
from ledger.domain import commands as c
from ledger.models import Account, Command, Event, Snapshot
from projections.models import Generation, Relay
from tests.conftest import Sender, user_with

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
        assert answer.status_code == 400
        assert 'class="errornote"' in answer.content.decode()

    def test_of_an_unknown_account_says_so(self, sign_in: In) -> None:
        url = reverse("admin:ledger_account_timeline", args=[uuid4()])
        assert sign_in("auditor").get(url).status_code == 400


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
