"""The main walk, by browser and by force: import, transfer, time travel, loss, kill -9."""

import itertools
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from confluent_kafka import Consumer, TopicPartition
from django.core.management import call_command
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from redis import Redis

from audit import verify
from ledger.api.serializers import account_id_of_reference
from tests.flows.conftest import PASSWORD
from tests.ledger.test_bank_files import MT940
from tests.system import System, wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        yield made
        made.close()


def sign_in(browser: Browser, system: System, user: str, **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []

    def note(line: ConsoleMessage) -> None:
        is_wanted = line.location["url"].endswith("/nothing")  # a 404 is logged as an error
        if line.type == "error" and not is_wanted:
            problems.append(line.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.problems = problems  # type: ignore[attr-defined]  # read by assert_clean
    page.goto(f"{system.url}/login")
    page.fill("#id_login", user)
    page.fill("#id_password", PASSWORD)
    page.click("main button[type=submit]")
    page.wait_for_url(f"{system.url}/")
    if user == "auditor":
        page.goto(f"{system.url}/admin/reason/?next=/admin/")
        page.fill("#reason", "case 17")
        assert_clean(page)
        page.click("#content button[type=submit]")
        page.wait_for_url(f"{system.url}/admin/")
    return page


def assert_clean(page: Page) -> None:
    """No script error, no violated policy, no accessibility finding, no sideways scrolling."""
    assert page.problems == []  # type: ignore[attr-defined]  # set by sign_in
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, f"{page.url} is {width} px too wide"
    if "/admin/" not in page.url:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


class Client:
    """The API with a token, as a service would use it."""

    def __init__(self, system: System) -> None:
        self.base = f"{system.url}/api/v1"
        self.session = requests.Session()
        token = system.manage("create_token", "service").strip()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.base}/{path}", timeout=20)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any, key: str | None = None) -> requests.Response:
        return self.session.post(
            f"{self.base}/{path}",
            json=body,
            headers={"Idempotency-Key": key or str(uuid4())},
            timeout=20,
        )

    def open(self, balance: str = "", **fields: str) -> str:
        """A new account with a balance."""
        opened = self.post("accounts", {"holder": "Walk", "currency": "EUR", **fields})
        account: str = opened.json()["accounts"][0]["id"]
        if balance:
            self.post(f"accounts/{account}/deposits", {"amount": balance, "currency": "EUR"})
        return account

    def balance(self, account: str) -> str:
        """The balance that the event store says."""
        found: str = self.get(f"accounts/{account}/state")["account"]["balance"]
        return found


@pytest.fixture(scope="module")
def client(system: System) -> Client:
    return Client(system)


class TestTheWalk:
    """Each step on accounts of its own."""

    def test_import_a_file_in_the_browser_and_see_its_balances(
        self, system: System, browser: Browser, client: Client, tmp_path: Path
    ) -> None:
        path = tmp_path / "walk.csv"
        call_command("generate_transactions", path, rows=1000, accounts=10, seed=11)
        page = sign_in(browser, system, "supervisor")
        page.click("text=Import")
        page.set_input_files("#id_file", path)
        page.fill("#id_source", "walk")
        page.click("text=Preview")
        assert_clean(page)
        page.click("button:has-text('Import 1000 rows')")
        page.wait_for_selector("#import-status:has-text('done')", timeout=30_000)
        assert "1000 of 1000" in page.inner_text("#import-live")
        assert_clean(page)
        last = {row.split(";")[1]: row.split(";")[6] for row in path.read_text().splitlines()[1:]}
        for account, balance in last.items():
            assert client.balance(account_id_of_reference(f"walk:{account}")) == balance

    def test_transfer_in_the_browser_is_processing_then_current(
        self, system: System, browser: Browser, client: Client
    ) -> None:
        reference = f"to-{uuid4().hex[:8]}"
        payer, payee = client.open("1250.00"), client.open(reference=reference)
        system.wait_caught_up()
        page = sign_in(browser, system, "teller")
        page.fill("#search", payer)
        page.press("#search", "Enter")
        page.wait_for_selector("#freshness.good")
        page.click("text=Transfer")
        page.fill("#id_to_account_id", reference)
        page.fill("#id_amount", "12,50")
        page.click("main button[type=submit]")
        assert "is not an amount" in page.inner_text("main form")
        assert page.input_value("#id_to_account_id") == reference
        system.kill("projector")
        page.fill("#id_amount", "12.50")
        page.click("main button[type=submit]")
        page.wait_for_selector("#freshness.busy")
        assert "1,237.50" in page.inner_text("#balance")
        # The badge keeps asking and must not clear while nothing projects.
        with page.expect_response("**/live?*"):
            pass
        with page.expect_response("**/live?*"):
            pass
        assert page.is_visible("#freshness.busy")
        system.start("projector")
        page.wait_for_selector("#freshness.good", timeout=30_000)
        assert "1,237.50" in page.inner_text("#balance")
        assert_clean(page)
        assert (client.balance(payer), client.balance(payee)) == ("1237.50", "12.50")

    def test_a_double_click_moves_money_once(
        self, system: System, browser: Browser, client: Client
    ) -> None:
        account = client.open("10.00")
        page = sign_in(browser, system, "teller")
        page.goto(f"{system.url}/accounts/{account}/deposit")
        page.fill("#id_amount", "1.00")
        form = page.evaluate(
            "new URLSearchParams(new FormData(document.querySelector('main form'))).toString()"
        )
        for _ in range(2):
            answer = page.request.post(
                f"{system.url}/accounts/{account}/deposit",
                data=form,
                headers={
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Referer": system.url,
                },
            )
            assert answer.ok
        assert client.balance(account) == "11.00"

    def test_the_account_as_of_a_moment_in_the_admin_by_keyboard(
        self, system: System, browser: Browser, client: Client
    ) -> None:
        account = client.open("1250.00")
        client.post(f"accounts/{account}/withdrawals", {"amount": "11.50", "currency": "EUR"})
        events = client.get(f"accounts/{account}/events")["data"]
        page = sign_in(browser, system, "auditor")
        base = f"{system.url}/admin/ledger/account/{account}/timeline/"
        page.goto(f"{base}?as_of={events[1]['recorded_at']}")
        assert page.inner_text("#balance") == "1250.00"
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/timeline/?version=3")
        assert page.inner_text("#balance") == "1238.50"
        page.keyboard.press("Home")
        page.wait_for_url("**/timeline/?version=1")
        assert page.inner_text("#balance") == "0.00"
        page.keyboard.press("End")
        page.wait_for_url("**/timeline/?version=3")
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
        page.goto(f"{base}?as_of={yesterday}")
        assert "does not exist at this moment" in page.inner_text(".errornote")

    @pytest.mark.parametrize(
        ("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]
    )
    def test_every_page_is_clean_wide_narrow_light_and_dark(
        self, system: System, browser: Browser, client: Client, width: int, scheme: str
    ) -> None:
        account = client.open("1250.00")
        paid = client.post(f"accounts/{account}/deposits", {"amount": "5", "currency": "EUR"})
        held = client.post(f"accounts/{account}/holds", {"amount": "45.00", "currency": "EUR"})
        hold, command = held.json()["command_id"], paid.json()["command_id"]
        system.wait_caught_up()
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        page = sign_in(browser, system, "supervisor", **options)
        paths = [
            "/", "/search?q=Account", "/search?q=nobody", "/accounts/open", f"/accounts/{account}",
            f"/accounts/{account}/deposit", f"/accounts/{account}/transfer",
            f"/accounts/{account}/freeze", f"/accounts/{account}/holds/{hold}/capture",
            f"/transactions/{command}", "/imports", "/problems/insufficient_funds", "/nothing",
            "/approvals", "/ledger", "/periods", "/reason", f"/accounts/{account}/statement",
            "/accounts", "/accounts?status=open&holder=t", "/accounts?status=frozen", "/operations", "/replays",
            "/webhooks", "/ledger/changes",
            f"/accounts/{account}/reconcile", "/search?q=5.00+EUR",
        ]  # fmt: skip
        for path in paths:
            page.goto(system.url + path)
            assert_clean(page)
        page.goto(f"{system.url}/reason")
        page.fill("#reason", "case 17")
        page.click("main button[type=submit]:has-text('Go on')")
        page.wait_for_url(f"{system.url}/")
        for path in PAST:
            page.goto(f"{system.url}/accounts/{account}/{path}")
            assert_clean(page)
        page.goto(f"{system.url}/ledger/changes?effective_b=now&known_a=1+hour+ago")
        assert page.is_visible("#sums")
        assert_clean(page)
        page.goto(f"{system.url}/api/v1/docs/")
        page.wait_for_selector('[data-path="/api/v1/transfers"]')
        assert page.problems == []  # type: ignore[attr-defined]  # set by sign_in
        auditor = sign_in(browser, system, "auditor", **options)
        for path in PAST:
            auditor.goto(f"{system.url}/admin/ledger/account/{account}/{path.replace('?', '/?')}")
            assert_clean(auditor)
        auditor.goto(f"{system.url}/admin/audit/pass/integrity/")
        assert_clean(auditor)

    def test_a_complaint_from_the_wrong_balance_to_the_approved_correction(
        self, system: System, browser: Browser, client: Client
    ) -> None:
        """The customer expects 20.00 more: explain, propose, somebody else approves, it is right."""
        account = client.open("100.00")
        for _ in range(2):
            client.post(f"accounts/{account}/withdrawals", {"amount": "20.00", "currency": "EUR"})
        system.manage(
            "shell", "-c",
            "from django.contrib.auth.models import *; u, _ = User.objects.get_or_create(username='second'); "
            f"u.set_password('{PASSWORD}'); u.save(); u.groups.add(Group.objects.get(name='supervisor'))",
        )  # fmt: skip
        maker = sign_in(browser, system, "supervisor", timezone_id="Europe/Berlin")
        maker.goto(f"{system.url}/accounts/{account}")
        maker.click("text=Explain the balance")
        maker.fill("#reason", "complaint 4711")
        maker.click("text=Go on")
        maker.wait_for_url("**/explain")
        maker.fill("[name=expected]", "80.00")
        maker.keyboard.press("Enter")
        assert maker.inner_text("#gap") == "\u221220.00"
        assert "Entered twice" in maker.inner_text("ol.candidates li:first-child h3")
        maker.click("ol.candidates li:first-child >> text=event 4")
        maker.wait_for_url("**/timeline?version=4")
        maker.wait_for_selector("#balances canvas")
        assert "+01:00" in maker.inner_text("main") or "+02:00" in maker.inner_text("main")
        assert maker.evaluate("document.querySelector('#balances canvas').width") > 100
        maker.go_back()
        maker.click("ol.candidates li:first-child >> text=Adjust by 20.00")
        assert maker.input_value("[name=amount]") == "20.00"
        maker.click("main form button[type=submit]:has-text('Adjust')")
        maker.wait_for_url("**/approvals/*")
        assert "it waits for a second person" in maker.inner_text("main")
        assert client.balance(account) == "60.00"
        checker = sign_in(browser, system, "second")
        checker.goto(maker.url)
        assert_clean(checker)
        checker.click("text=Approve >> nth=-1")
        checker.wait_for_selector("text=Approved and recorded")
        assert_clean(checker)
        assert client.balance(account) == "80.00"

    def test_what_another_does_waits_under_a_bar(
        self, system: System, browser: Browser, client: Client
    ) -> None:
        account = client.open("10.00")
        system.wait_caught_up()
        page = sign_in(browser, system, "teller")
        with page.expect_response("**/stream"):
            page.goto(f"{system.url}/accounts/{account}")
        page.wait_for_selector("#freshness.good")
        for _ in range(2):
            client.post(f"accounts/{account}/deposits", {"amount": "1.00", "currency": "EUR"})
        page.wait_for_selector("#news:has-text('2 new events')")
        assert "10.00" in page.inner_text("#balance"), "nothing moves that is being read"
        page.click("#news button")
        page.wait_for_selector("#balance:has-text('12.00')")
        assert not page.is_visible("#news")
        assert_clean(page)

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
    def test_a_bank_statement_is_reconciled(
        self,
        system: System,
        browser: Browser,
        client: Client,
        tmp_path: Path,
        width: int,
        scheme: str,
    ) -> None:
        account = client.open("100.00")
        file = tmp_path / "march.sta"
        file.write_text(MT940)
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        page = sign_in(browser, system, "supervisor", **options)
        page.goto(f"{system.url}/accounts/{account}")
        page.click("text=Reconcile")
        page.set_input_files("[name=file]", file)
        page.click("text=Compare >> nth=-1")
        page.wait_for_selector("h1:has-text('3 breaks')")
        assert_clean(page)
        page.click("text=Choose all 3")
        page.click("text=Enter the chosen ones")
        page.wait_for_selector("text=3 entered.")
        assert "not in the ledger" not in page.inner_text("main")
        assert "3 of 3" in page.inner_text("main")
        assert_clean(page)
        assert client.balance(account) == "119.50"

    def test_flushall_is_still_right_and_rebuilds_itself(
        self, system: System, client: Client
    ) -> None:
        account = client.open("100.00")
        ids = [item["id"] for item in client.get("accounts?limit=1000")["data"]]
        system.wait_caught_up()
        before = {item: client.get(f"accounts/{item}")["balance"] for item in ids}
        Redis.from_url(system.env["REDIS_URL"]).flushall()
        after = {item: client.get(f"accounts/{item}")["balance"] for item in ids}
        assert after == before
        done = client.post(f"accounts/{account}/deposits", {"amount": "1.00", "currency": "EUR"})
        seen = done.headers["Ledger-Position"]
        assert client.get(f"accounts/{account}?at_least={seen}")["balance"] == "101.00"
        system.wait_caught_up()
        for item in ids:
            found = client.get(f"accounts/{item}")
            assert found["source"] == "projection"
            assert found["projection"]["status"] == "current"
            assert found["balance"] == ("101.00" if item == account else before[item])


PAST = (
    "timeline?version=2&compare=4", "explain?expected=1000.00", "what-if?command=Withdraw&amount=1",
    "known?effective_a=2026-01-01&known_a=1+minute+ago",
)  # fmt: skip


class TestKilledMidLoad:
    def test_nothing_is_lost_and_nothing_doubled(self, system: System, client: Client) -> None:
        accounts = [client.open("1000.00") for _ in range(6)]
        stop = threading.Event()
        accepted: list[str] = []
        workers = [
            threading.Thread(target=_load, args=(system, client, accounts, seed, stop, accepted))
            for seed in range(6)
        ]
        for worker in workers:
            worker.start()
        dice = random.Random(4)
        for name in [
            *dice.sample(["worker", "projector"] * 3, 6),
            "web",
            "beat",
            "worker",
            "projector",
        ]:
            time.sleep(dice.uniform(0.3, 1.0))
            system.kill(name)
            system.start(name)
        stop.set()
        for worker in workers:
            worker.join()
        wait_for(system.ready, "the web server")
        system.wait_caught_up()
        assert len(accepted) == len(set(accepted)) > 50
        events = _log(client)
        assert [event["position"] for event in events] == list(range(1, len(events) + 1))
        commands = [event["metadata"]["command_id"] for event in events]
        for command in accepted:
            assert commands.count(command) in (1, 2)
        for account in accounts:
            mine = [event for event in events if event["account_id"] == account]
            assert [event["version"] for event in mine] == list(range(1, len(mine) + 1))
            found = client.get(f"accounts/{account}")
            assert (found["source"], found["version"]) == ("projection", len(mine))
        total = sum(
            round(100 * float(client.get(f"accounts/{item}")["balance"])) for item in accounts
        )
        assert total == 600_000
        assert client.get("trial-balance")["currencies"][0]["sum"] == "0.00"
        drift = json.loads(system.manage("rebuild_projections", "--json"))
        assert drift["drift_total"] == 0
        if system.env.get("KAFKA_BOOTSTRAP_SERVERS"):
            assert _topic_positions(system) == list(range(1, len(events) + 1))


def _load(
    system: System,
    client: Client,
    accounts: list[str],
    seed: int,
    stop: threading.Event,
    accepted: list[str],
) -> None:
    """Transfers, each sent with one key until it is answered, whatever dies meanwhile."""
    dice = random.Random(seed)
    session = requests.Session()
    session.headers.update(client.session.headers)
    for number in itertools.count():
        if stop.is_set():
            return
        payer, payee = dice.sample(accounts, 2)
        body = {
            "from_account_id": payer, "to_account_id": payee, "amount": "0.01", "currency": "EUR",
        }  # fmt: skip
        while True:
            try:
                answer = session.post(
                    f"{client.base}/transfers", json=body, timeout=20,
                    headers={"Idempotency-Key": f"load-{seed}-{number}"},
                )  # fmt: skip
            except requests.RequestException:
                time.sleep(0.05)
                continue
            if answer.status_code == 201:
                accepted.append(answer.json()["command_id"])
                break
            assert answer.status_code == 503, answer.text
            time.sleep(0.05)


def _log(client: Client) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        page = client.get(f"events?limit=1000&after={len(events)}")
        events += page["data"]
        if not page["has_more"]:
            return events


def _topic_positions(system: System) -> list[int]:
    consumer = Consumer(
        {"bootstrap.servers": system.env["KAFKA_BOOTSTRAP_SERVERS"], "group.id": uuid4().hex}
    )
    topic = system.env["LEDGER_TOPIC"]
    partitions = [TopicPartition(topic, number, 0) for number in range(12)]
    expected = sum(consumer.get_watermark_offsets(item, timeout=10)[1] for item in partitions)
    consumer.assign(partitions)
    positions: list[int] = []
    while len(positions) < expected:
        for message in consumer.consume(1000, 5):
            assert message.error() is None
            positions.append(json.loads(message.value() or b"")["position"])
    consumer.close()
    return sorted(positions)


def test_a_passkey_is_added_and_opens_the_door(system: System, browser: Browser) -> None:
    """With a virtual authenticator, as a browser's own tests do it; and each page of the account."""
    system.manage(  # one of their own: from here on the password alone opens nothing
        "shell", "--no-imports", "-c",
        "from django.contrib.auth.models import Group, User;"
        f"user = User.objects.create_user('keyholder', password={PASSWORD!r});"
        "user.groups.add(Group.objects.get(name='teller'))",
    )  # fmt: skip
    page = sign_in(browser, system, "keyholder")
    tools = page.context.new_cdp_session(page)
    tools.send("WebAuthn.enable")
    key = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True,
        "hasUserVerification": True, "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    tools.send("WebAuthn.addVirtualAuthenticator", {"options": key})
    local_url = system.url.replace("127.0.0.1", "localhost")  # a passkey needs a name
    page.goto(f"{local_url}/login")
    page.fill("#id_login", "keyholder")
    page.fill("#id_password", PASSWORD)
    page.click("main button[type=submit]:has-text('Sign in') >> nth=0")
    page.wait_for_url(f"{local_url}/")
    page.click("text=Account >> nth=-1")
    assert_clean(page)
    page.goto(f"{local_url}/account/password")
    assert_clean(page)
    page.goto(f"{local_url}/account/webauthn/add/")
    page.wait_for_url("**/account/reauthenticate?**")  # not without the password again
    assert_clean(page)
    page.fill("#id_password", PASSWORD)
    page.click("text=Confirm >> nth=-1")
    page.wait_for_url("**/account/webauthn/add/")
    assert_clean(page)
    page.fill("[name=name]", "key")
    page.check("[name=passwordless]")
    page.click("#mfa_webauthn_add")
    page.wait_for_url("**/account/**recovery-codes/**")
    assert_clean(page)
    for path in ("webauthn/", "totp/activate/", "recovery-codes/"):
        page.goto(f"{local_url}/account/{path}")
        assert_clean(page)
    page.click("text=Sign out")
    page.wait_for_url("**/login")
    assert_clean(page)
    page.click("#passkey_login")
    page.wait_for_url(f"{local_url}/")
    assert "Sign out keyholder" in page.inner_text("header")


def test_seals_follow_the_log_and_lie_outside(
    system: System, client: Client, tmp_path: Path
) -> None:
    """Within seconds of a command: sealed, on the topic, at the witness; its receipt holds."""
    account = client.open("10.00")
    opened = client.get(f"accounts/{account}/events")["data"][0]
    command_id = opened["metadata"]["command_id"]

    def sealed() -> bool:
        return bool(client.get("seal")["size"] >= opened["position"])

    wait_for(sealed, "the seal", 10)
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(client.get(f"commands/{command_id}/receipt")))
    assert verify.main([str(path), "--key", system.seal_key]) == 0
    said = system.manage("verify", "--witness", system.env["LEDGER_WITNESS"])
    assert "all hold" in said
    if not system.env.get("KAFKA_BOOTSTRAP_SERVERS"):
        return
    consumer = Consumer(
        {"bootstrap.servers": system.env["KAFKA_BOOTSTRAP_SERVERS"], "group.id": uuid4().hex}
    )
    consumer.assign([TopicPartition(system.env["LEDGER_SEALS_TOPIC"], 0, 0)])
    key = verify.read_key(system.seal_key)
    published = 0
    while published < opened["position"]:
        [message] = consumer.consume(1, 15)
        assert message.error() is None
        if not (message.key() or b"").startswith(b"events/"):
            continue  # the records of commands and the looks are logs of their own
        size, _ = verify.read_note((message.value() or b"").decode(), key, "the seal")
        assert size >= published  # at least once
        published = size
    consumer.close()


def test_web_workers_keep_to_a_cpu_each(system: System) -> None:
    parent = system.children["web"].process.pid
    workers = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    places = [os.sched_getaffinity(int(pid)) for pid in workers]
    assert [len(place) for place in places] == [1, 1]
    assert len(set.union(*places)) == min(2, len(os.sched_getaffinity(0)))


def test_processes_stop_gracefully_without_an_unknown_command(
    system: System, client: Client
) -> None:
    """SIGTERM of the web server under load: every answer that was given is true."""
    account = client.open()
    answers: list[int] = []

    def work() -> None:
        for _ in range(40):
            try:
                answers.append(
                    client.post(
                        f"accounts/{account}/deposits", {"amount": "1.00", "currency": "EUR"}
                    ).status_code
                )
            except requests.RequestException:
                return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    system.children.pop("web").stop()
    for thread in threads:
        thread.join()
    system.start("web")
    wait_for(system.ready, "the web server")
    found = client.get(f"accounts/{account}/state")["account"]
    assert found["transactions"] >= answers.count(201) > 0
