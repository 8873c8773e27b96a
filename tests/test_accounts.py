"""Signing in: bounded attempts, second factors, and nobody who may come around them."""

from typing import Any
from uuid import uuid4

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.test import Client

PASSWORD = "correct horse battery"


@pytest.fixture
def user(live_db: None, settings: Any) -> User:
    settings.ALLOWED_HOSTS = ["*"]
    cache.clear()
    made = User.objects.create_user(f"u{uuid4().hex[:8]}", password=PASSWORD)
    made.groups.add(Group.objects.get(name="supervisor"))
    return made


def sign_in(client: Client, user: User, password: str = PASSWORD) -> Any:
    return client.post("/login", {"login": user.username, "password": password}, follow=True)


def code_of(secret: str) -> str:
    return str(format_hotp_value(hotp_value(secret, next(yield_hotp_counters_from_time()))))


def with_totp(user: User) -> str:
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    TOTP.activate(user, secret)
    return secret


class TestPassword:
    def test_opens_the_door_and_a_wrong_one_does_not(self, user: User) -> None:
        assert sign_in(Client(), user, "wrong").context["user"].is_anonymous
        done = sign_in(Client(), user)
        assert done.redirect_chain == [("/", 302)]
        assert done.context["user"] == user

    def test_guessing_is_stopped_for_that_name_and_not_for_others(self, user: User) -> None:
        client = Client()
        for _ in range(5):
            assert "not correct" in sign_in(client, user, "wrong").content.decode()
        last = sign_in(client, user, PASSWORD)
        assert "Too many failed" in last.content.decode(), "the right one comes too late"
        assert last.context["user"].is_anonymous
        other = User.objects.create_user(f"u{uuid4().hex[:8]}", password=PASSWORD)
        assert sign_in(client, other).context["user"] == other

    def test_an_address_that_floods_is_sent_away(self, user: User, settings: Any) -> None:
        settings.ACCOUNT_RATE_LIMITS = {"login": "3/m/ip"}
        client = Client()
        codes = [
            client.post("/login", {"login": "x", "password": "y"}).status_code for _ in range(5)
        ]
        assert codes == [200, 200, 200, 429, 429]

    def test_works_without_redis(self, user: User, settings: Any) -> None:
        settings.CACHES = {
            **settings.CACHES,
            "redis": {**settings.CACHES["redis"], "LOCATION": "redis://127.0.0.1:1/0"},
        }
        done = sign_in(Client(), user)
        assert done.redirect_chain == [("/", 302)], done.content

    @pytest.mark.parametrize("path", ["signup", "inactive", "password-reset"])
    def test_there_is_no_other_door(self, user: User, path: str) -> None:
        assert Client().get(f"/account/{path}").status_code == 404
        body = {"username": "new", "password1": PASSWORD}
        assert Client().post(f"/account/{path}", body).status_code == 404
        assert not User.objects.filter(username="new").exists()


class TestSecondFactor:
    def test_is_asked_for_and_nothing_opens_before(self, user: User) -> None:
        secret = with_totp(user)
        client = Client()
        asked = sign_in(client, user)
        assert asked.redirect_chain[-1][0].startswith("/account/authenticate/")
        assert client.get("/accounts").status_code == 302, "not signed in yet"
        wrong = client.post("/account/authenticate/", {"code": "000000"})
        assert wrong.status_code == 200
        assert client.get("/accounts").status_code == 302
        done = client.post("/account/authenticate/", {"code": code_of(secret)}, follow=True)
        assert done.context["user"] == user

    def test_a_code_counts_once(self, user: User) -> None:
        secret = with_totp(user)
        code = code_of(secret)
        for expected in (user, None):
            client = Client()
            sign_in(client, user)
            done = client.post("/account/authenticate/", {"code": code}, follow=True)
            signed_in = done.context["user"] if done.context["user"].is_authenticated else None
            assert signed_in == expected

    def test_can_be_required_of_a_role(self, user: User, settings: Any) -> None:
        settings.LEDGER_MFA_ROLES = ["supervisor"]
        client = Client()
        sign_in(client, user)
        for path in ("/", "/accounts", "/operations", "/admin/", "/reason"):
            answer = client.get(path)
            assert (answer.status_code, answer["Location"]) == (302, "/account/"), path
        assert client.get("/account/").status_code == 200
        assert client.get("/account/totp/activate/").status_code in (200, 302)
        with_totp(user)
        assert client.get("/").status_code == 200
        user.groups.set([Group.objects.get(name="teller")])
        Authenticator.objects.filter(user=user).delete()
        assert client.get("/").status_code == 200, "not required of tellers"

    def test_cannot_be_switched_off_without_the_password(self, user: User) -> None:
        with_totp(user)
        client = Client()
        client.force_login(user)
        answer = client.post("/account/totp/deactivate/")
        assert answer.status_code == 302
        assert "/account/reauthenticate" in answer["Location"]
        assert Authenticator.objects.filter(user=user).exists()
