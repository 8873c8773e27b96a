"""Real services for every test: bin/test starts them and passes their addresses.

The log only grows, so tests share one database and keep apart by using accounts of their own.
What needs a log of its own takes `own_log`: a database cloned from the freshly migrated one.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import uuid_utils.compat as uuid7
from django.contrib.auth.models import Group, User
from django.db import connection
from hypothesis import settings as hypothesis_settings
from rest_framework.test import APIClient

from ledger.bus import CommandBus
from ledger.domain import commands as c
from ledger.handlers import Outcome, envelope

hypothesis_settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
hypothesis_settings.register_profile("deep", deadline=None, max_examples=2000)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SUPERUSER_URL = os.environ.get("LEDGER_SUPERUSER_URL", "")
TEMPLATE = "ledger_template"


def superuser(database: str = "postgres") -> psycopg.Connection[Any]:
    """A connection that may do anything: for tampering and for cloning."""
    url = SUPERUSER_URL.rsplit("/", 1)[0] + f"/{database}"
    return psycopg.connect(url, autocommit=True)


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any) -> None:
    """The database is migrated by bin/test; keep a pristine copy of it."""
    with django_db_blocker.unblock():
        connection.close()
        with superuser() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
            admin.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE ledger OWNER ledger_owner")


@pytest.fixture
def live_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The shared database, with real commits."""
    with django_db_blocker.unblock():
        yield


@contextmanager
def cloned_database() -> Iterator[str]:
    """A database of one's own, dropped at the end."""
    name = f"clone_{uuid4().hex}"
    with superuser() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER ledger_owner")
    try:
        yield name
    finally:
        with superuser() as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def own_log(live_db: None) -> Iterator[str]:
    """An empty log of one's own; new connections of this process go there. Gives its name."""
    before = connection.settings_dict["NAME"]
    with cloned_database() as name:
        connection.close()
        connection.settings_dict["NAME"] = name
        try:
            yield name
        finally:
            connection.close()
            connection.settings_dict["NAME"] = before


class Sender:
    """Sends commands over a bus of its own and opens accounts."""

    def __init__(self) -> None:
        self.bus = CommandBus()

    def __call__(self, command: c.Command, key: str | None = None, **options: Any) -> Outcome:
        """The outcome of one command."""
        return self.bus.send_one(self.wrap(command, key, **options))

    def wrap(self, command: c.Command, key: str | None = None, **options: Any) -> Any:
        """The envelope of a command."""
        return envelope(
            command,
            sender=options.pop("sender", "test"),
            key=key or str(uuid4()),
            actor="tester",
            channel="test",
            **options,
        )

    def open(self, balance: int = 0, currency: str = "EUR", **options: Any) -> str:
        """A new account with a balance."""
        account_id = str(uuid7.uuid7())
        opened = self(
            c.OpenAccount(account_id=account_id, holder="Test", currency=currency, **options)
        )
        assert opened.error is None
        if balance:
            self(c.Deposit(account_id=account_id, amount=balance, currency=currency))
        return account_id


@pytest.fixture(scope="session")
def one_sender() -> Sender:
    """One bus for all tests on the shared log: each has a thread with a connection of its own."""
    return Sender()


@pytest.fixture
def send(live_db: None, one_sender: Sender) -> Sender:
    """See `Sender`; on the shared log."""
    return one_sender


@pytest.fixture
def send_own(own_log: str) -> Sender:
    """See `Sender`; on a log of one's own."""
    return Sender()


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in `count` threads that start together; results in order, errors included."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def user_with(role: str) -> User:
    """The test user of a role, made once."""
    user, created = User.objects.get_or_create(username=f"test-{role}")
    if created:
        user.groups.add(Group.objects.get(name=role))
        user.set_password("correct horse battery")
        user.save()
    return user


class Api:
    """The REST API as a role, through the whole stack of middleware."""

    def __init__(self, role: str = "") -> None:
        self.client = APIClient(raise_request_exception=False)
        if role:
            self.client.force_authenticate(user_with(role))

    def post(self, path: str, body: Any = None, key: str | None = None, **headers: str) -> Any:
        """POST with an idempotency key."""
        return self.client.post(
            f"/api/v1/{path}",
            {} if body is None else body,
            format="json",
            headers={"Idempotency-Key": key or str(uuid4()), **headers},
        )

    def get(self, path: str, **headers: str) -> Any:
        """GET, with a reason as staff must give one."""
        return self.client.get(f"/api/v1/{path}", headers={"Read-Reason": "case 17", **headers})

    def open(self, balance: str = "0", currency: str = "EUR", **fields: str) -> str:
        """A new account with a balance."""
        answer = self.post("accounts", {"holder": "Test", "currency": currency, **fields})
        assert answer.status_code == 201, answer.content
        account_id: str = answer.json()["accounts"][0]["id"]
        if balance != "0":
            done = self.post(
                f"accounts/{account_id}/deposits", {"amount": balance, "currency": currency}
            )
            assert done.status_code == 201, done.content
        return account_id


@pytest.fixture(autouse=True)
def no_rates(settings: Any) -> None:
    """As many requests as the tests like: their users are shared by all of them."""
    settings.LEDGER_RATES = dict.fromkeys(settings.LEDGER_RATES, 0)


@pytest.fixture
def api(live_db: None, settings: Any) -> Api:
    """The API as a supervisor."""
    settings.ALLOWED_HOSTS = ["*"]
    return Api("supervisor")


@pytest.fixture
def api_as(live_db: None, settings: Any) -> Callable[[str], Api]:
    """The API as any role; an empty one is not signed in."""
    settings.ALLOWED_HOSTS = ["*"]
    return Api


@pytest.fixture
def own_redis(settings: Any) -> Iterator[str]:
    """A key prefix of one's own in Redis, emptied at the end."""
    from projections import redis_store

    settings.LEDGER_REDIS_PREFIX = f"t{uuid4().hex[:12]}"
    yield settings.LEDGER_REDIS_PREFIX
    keys = list(
        redis_store.client().scan_iter(match=f"{settings.LEDGER_REDIS_PREFIX}*", count=1000)
    )
    if keys:
        redis_store.client().unlink(*keys)


@pytest.fixture(params=["kafka", "log"])
def event_bus(request: pytest.FixtureRequest, settings: Any) -> str:
    """Every test that takes this runs on a real Kafka broker and on the log bus."""
    if request.param == "kafka" and not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        pytest.skip("no Kafka broker: Java or Maven is missing here")
    settings.LEDGER_BUS = request.param
    settings.LEDGER_TOPIC = f"ledger.events.{uuid4().hex[:12]}"
    return str(request.param)
