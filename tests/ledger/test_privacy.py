"""Personal data is nowhere but under its key, and gone with it; proofs and balances stay."""

import base64
import io
import json
import os
import zipfile
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from audit import checks, seals
from ledger import access, approvals, history, privacy, store
from ledger.checks import check_privacy_keys
from ledger.domain import commands as c
from ledger.models import Account, Command, NameToken, SubjectKey
from projections import wire
from tests.conftest import Api, Sender, superuser, user_with
from tests.ledger.test_bank_files import MT940

WORDS = ("Wilhelmina", "Birthday", "Divorce", "Mistyped", "Bankruptcy", "Forgotten", "Suspicion",
         "Overdrawn", "Ransom", "Salary")  # fmt: skip


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def sealed(own_log: str, settings: Any) -> Any:
    """A log of one's own in which words are sealed."""
    settings.ALLOWED_HOSTS = ["*"]
    settings.LEDGER_PRIVACY_KEYS = [new_key()]
    privacy.keys._known.clear()
    return settings


def lived(send: Sender) -> str:
    """An account with words everywhere that a command has room for them."""
    account = send.open(balance=10_000, reference=f"r-{uuid4()}")
    send(c.ChangeHolder(account_id=account, holder="Wilhelmina Tell", owner="w"))
    other = send.open()
    send(c.Deposit(account_id=account, amount=5, currency="EUR", memo="Birthday"))
    paid = send(c.Withdraw(account_id=account, amount=5, currency="EUR", memo="Divorce"))
    send(c.ReverseTransaction(transaction_id=paid.command_id, reason="Mistyped"))
    send(
        c.Transfer(
            from_account_id=account, to_account_id=other, amount=7, currency="EUR",
            memo="Bankruptcy",
        )
    )  # fmt: skip
    held = send(c.PlaceHold(account_id=account, amount=5, currency="EUR", memo="Forgotten"))
    send(c.CaptureHold(account_id=account, hold_id=held.command_id))
    send(c.FreezeAccount(account_id=account, reason="Suspicion"))
    refused = send(c.Withdraw(account_id=account, amount=1, currency="EUR", memo="Overdrawn"))
    assert refused.error is not None
    send(c.UnfreezeAccount(account_id=account, reason="Suspicion"))
    gone = send(c.Deposit(account_id=str(uuid4()), amount=1, currency="EUR", memo="Ransom"))
    assert gone.error is not None
    return account


def everything_stored() -> str:
    """Every row of every table, as text: what a dump holds."""
    with superuser(connection.settings_dict["NAME"]) as admin:
        tables = admin.execute(
            "SELECT quote_ident(table_name) FROM information_schema.tables "
            "WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        ).fetchall()
        return "\n".join(
            str(row[0])
            for (table,) in tables
            for row in admin.execute(f"SELECT t::text FROM {table} t").fetchall()
        )


def closed(send: Sender) -> str:
    account = lived(send)
    left = history.current(account)[0].balance
    assert send(c.Withdraw(account_id=account, amount=left, currency="EUR")).error is None
    assert send(c.CloseAccount(account_id=account, reason="Salary")).error is None
    return account


class TestSealing:
    def test_words_are_nowhere_in_the_clear(self, sealed: Any, send_own: Sender) -> None:
        account = closed(send_own)
        approvals.propose(
            user_with("supervisor"), "AdjustBalance",
            {"amount": "1.00", "currency": "EUR", "reason": "Ransom"}, {"account_id": account},
            key=str(uuid4()), reason="Ransom",
        )  # fmt: skip
        client = Client()
        client.force_login(user_with("supervisor"))
        open_account = send_own.open()
        file = SimpleUploadedFile("march.sta", MT940.encode())
        where = client.post(f"/accounts/{open_account}/reconcile", {"file": file})["Location"]
        assert "Salary" in client.get(where).content.decode(), "and its page shows them"
        stored = everything_stored()
        assert [word for word in WORDS if word.lower() in stored.lower()] == []
        messages = b"".join(wire.to_message(event) for event in store.read_log(after=0))
        assert [word for word in WORDS if word.encode() in messages] == []
        assert stored.count("~1.") > 15

    def test_those_who_may_read_the_account_see_them(
        self, sealed: Any, send_own: Sender, own_redis: str
    ) -> None:
        account = lived(send_own)
        api = Api("supervisor")
        assert api.get(f"accounts/{account}").json()["holder"] == "Wilhelmina Tell"
        text = api.get(f"accounts/{account}/events?limit=1000").content.decode()
        notes = api.get(f"accounts/{account}/activity").content.decode()
        for word in ("Birthday", "Divorce", "Bankruptcy", "Forgotten", "Suspicion"):
            assert word in text
            assert word in notes
        client = Client()
        client.force_login(user_with("supervisor"))
        page = client.get(f"/accounts/{account}").content.decode()
        assert "Wilhelmina Tell" in page
        assert "Birthday" in page
        assert "~1." not in page
        whole = api.get("events?limit=1000").content.decode()
        assert "Birthday" not in whole, "the feed for programs hands on what is stored"

    def test_a_name_is_found_by_its_beginning(self, sealed: Any, send_own: Sender) -> None:
        account = lived(send_own)

        def found(text: str) -> list[str]:
            rows = access.holder_begins(Account.objects.all(), text)
            return [str(row.id) for row in rows]

        for text in ("W", "wilhelm", "WILHELMINA TELL"):
            assert found(text) == [account]
        assert found("ilhelmina") == []
        assert [
            str(row.id) for row in access.held_by(Account.objects.all(), "Wilhelmina Tell")
        ] == [account]
        assert list(access.held_by(Account.objects.all(), "wilhelmina tell")) == []
        send_own(c.ChangeHolder(account_id=account, holder="Xaver"))
        assert (found("wil"), found("xav")) == ([], [account])
        answer = Api("supervisor").get("accounts?holder=Xaver").json()["data"]
        assert [item["id"] for item in answer] == [account]

    def test_everything_still_verifies_and_replays(self, sealed: Any, send_own: Sender) -> None:
        account = closed(send_own)
        again = send_own.open(balance=5)
        key = str(uuid4())
        deposit = c.Deposit(account_id=again, amount=1, currency="EUR", memo="Birthday")
        first, second = send_own(deposit, key=key), send_own(deposit, key=key)
        assert (second.command_id, second.replayed) == (first.command_id, True)
        assert checks.check_accounts().findings == []
        assert history.current(account)[0].holder.startswith("~1.")

    def test_what_was_written_before_stays_readable(
        self, own_log: str, send_own: Sender, settings: Any
    ) -> None:
        account = send_own.open()
        send_own(c.Deposit(account_id=account, amount=1, currency="EUR", memo="before"))
        settings.LEDGER_PRIVACY_KEYS = [new_key()]
        send_own(c.Deposit(account_id=account, amount=1, currency="EUR", memo="after"))
        memos = [privacy.revealed(item) for item in payloads(account)]
        assert [item.get("memo", "") for item in memos] == ["", "before", "after"]
        settings.LEDGER_PRIVACY_KEYS = []
        memos = [privacy.revealed(item) for item in payloads(account)]
        assert [item.get("memo", "") for item in memos] == ["", "before", privacy.UNREADABLE]


def payloads(account: str) -> list[dict[str, Any]]:
    return [json.loads(event.payload) for event in store.read_stream(account)]


class TestErasing:
    def test_takes_the_words_and_leaves_the_proof(
        self, sealed: Any, send_own: Sender, tmp_path: Any
    ) -> None:
        account = closed(send_own)
        bystander = send_own.open()
        send_own(c.ChangeHolder(account_id=bystander, holder="Walter"))
        before = everything_stored()
        assert send_own(c.EraseHolder(account_id=account, ground="request 12")).error is None
        assert privacy.finish_erasures() == 1
        assert not SubjectKey.objects.filter(account_id=account).exists()
        assert not NameToken.objects.filter(account_id=account).exists()
        shown = [privacy.revealed(item) for item in payloads(account)]
        words = {item[name] for item in shown for name in privacy.PERSONAL if item.get(name)}
        assert words == {privacy.ERASED}
        state = history.current(account)[0]
        assert (state.holder, state.owner) == ("", "")
        assert privacy.reveal(history.current(bystander)[0].holder) == "Walter"
        for line in before.splitlines():  # a backup without the keys says nothing either
            assert "Wilhelmina" not in privacy.reveal(line)
        assert checks.check_accounts().findings == []
        assert privacy.finish_erasures() == 0

    def test_the_log_verifies_and_a_bundle_holds(
        self, sealed: Any, send_own: Sender, tmp_path: Any, settings: Any
    ) -> None:
        key = tmp_path / "seal.key"
        call_command("seal_key", "test/ledger", str(key))
        settings.LEDGER_SEAL_KEYS = [str(key)]
        account = closed(send_own)
        for log in store.LOGS:
            seals.seal(log)
        send_own(c.EraseHolder(account_id=account, ground="request 12"))
        privacy.finish_erasures()
        for log in store.LOGS:
            seals.seal(log)
        call_command("verify")
        answer = Api("auditor").get(f"accounts/{account}/evidence")
        assert answer.status_code == 200
        with zipfile.ZipFile(io.BytesIO(b"".join(answer))) as bundle:
            files = {name: bundle.read(name) for name in bundle.namelist()}
            text = b"\n".join(files.values()).decode("latin-1")
        assert [word for word in WORDS if word in text] == []
        assert files["statement.csv"].decode().count(privacy.ERASED) > 5, "it says so"

    def test_only_closed_accounts_and_once(self, sealed: Any, send_own: Sender) -> None:
        def refusal(account: str) -> str:
            outcome = send_own(c.EraseHolder(account_id=account, ground="g"))
            return outcome.error.code if outcome.error else ""

        assert refusal(lived(send_own)) == "account_not_closed"
        assert refusal(str(uuid4())) == "account_not_found"
        account = closed(send_own)
        assert [refusal(account) for _ in range(2)] == ["", "already_erased"]

    def test_people_need_a_second_person(self, sealed: Any, send_own: Sender) -> None:
        account = closed(send_own)
        client = Client()
        client.force_login(user_with("supervisor"))
        form = {"key": str(uuid4()), "ground": "request 12"}
        answer = client.post(f"/accounts/{account}/erase", form)
        assert "/approvals/" in answer["Location"]
        assert history.current(account)[0].holder
        client.force_login(user_with("teller"))
        assert client.get(f"/accounts/{account}/erase").status_code == 403

    def test_a_process_that_ends_between_event_and_key_is_made_up_for(
        self, sealed: Any, send_own: Sender
    ) -> None:
        accounts = [closed(send_own) for _ in range(3)]
        for account in accounts:
            send_own(c.EraseHolder(account_id=account, ground="g"))
        assert SubjectKey.objects.filter(account_id__in=accounts).count() == 3
        assert privacy.finish_erasures() == 3
        assert not SubjectKey.objects.filter(account_id__in=accounts).exists()

    def test_another_process_forgets_within_a_second(
        self, sealed: Any, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = closed(send_own)
        other = privacy._Keys()
        assert account in other.of([account])
        privacy.destroy([account])
        assert account in other.of([account]), "it knows it from just now"
        monkeypatch.setattr(privacy, "KEY_SECONDS", -1.0)
        assert other.of([account]) == {}


class TestKeys:
    def test_of_two_that_make_one_the_slower_takes_the_other(
        self, sealed: Any, send_own: Sender
    ) -> None:
        account = str(uuid4())
        fast, slow = privacy.Sealer([account]), privacy.Sealer([account])
        fast_text, slow_text = fast.text(account, "a"), slow.text(account, "b")
        assert (fast.save(), slow.save()) == (True, False)
        assert privacy.reveal(fast_text) == "a"
        assert privacy.reveal(slow_text) == privacy.UNREADABLE
        assert privacy.reveal(privacy.Sealer([account]).text(account, "c")) == "c"

    def test_the_wrapping_key_can_be_changed(self, sealed: Any, send_own: Sender) -> None:
        old = sealed.LEDGER_PRIVACY_KEYS[0]
        account = lived(send_own)
        sealed.LEDGER_PRIVACY_KEYS = [new_key(), old]
        privacy.keys._known.clear()
        assert privacy.reveal(history.current(account)[0].holder) == "Wilhelmina Tell"
        call_command("rewrap_keys")
        sealed.LEDGER_PRIVACY_KEYS = sealed.LEDGER_PRIVACY_KEYS[:1]
        privacy.keys._known.clear()
        assert privacy.reveal(history.current(account)[0].holder) == "Wilhelmina Tell"
        rows = access.holder_begins(Account.objects.all(), "wilh")
        assert [str(row.id) for row in rows] == [account]

    @pytest.mark.parametrize("text", ["x", "AAAA", "a2V5", "!" * 44])
    def test_a_wrong_one_is_refused_at_the_start(self, settings: Any, text: str) -> None:
        settings.LEDGER_PRIVACY_KEYS = [text]
        assert check_privacy_keys() != []

    @given(st.text(max_size=60))
    def test_words_that_only_look_sealed_are_shown(self, plain: str) -> None:
        assert privacy.reveal(plain) == plain
        assert privacy.reveal(privacy.MARK + plain) == privacy.MARK + plain

    def test_any_words_come_back_and_damage_is_said(self, sealed: Any, send_own: Sender) -> None:
        account = send_own.open()
        for plain in ("a", "ü€😀", "~1.x", "x" * 500, "\\", '"', " "):
            text = privacy.seal(account, plain)
            assert plain not in text or plain in 'a\\" '
            assert privacy.reveal(text) == plain
            assert privacy.reveal(text[:-6] + "AAAA==") in (
                privacy.UNREADABLE,
                text[:-6] + "AAAA==",
            )

    def test_refusals_about_nobody_keep_no_words(self, sealed: Any, send_own: Sender) -> None:
        sent = send_own(c.Deposit(account_id=str(uuid4()), amount=1, currency="EUR", memo="Ransom"))
        assert "memo" not in Command.objects.get(pk=sent.command_id).body
