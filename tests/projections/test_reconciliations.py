"""A bank's statement against the ledger: what is planted is found, and entering it resolves it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from ledger import history, reconciliations, store
from ledger.api.serializers import command_of
from ledger.bank_files import BankStatement, Entry
from ledger.models import Command, Reconciliation
from ledger.reconciliations import Move, match
from tests.conftest import Sender, in_threads, user_with
from tests.ledger.test_bank_files import MT940

DAY = datetime(2026, 3, 2, tzinfo=UTC)


def entry(number: int, amount: int, *, day: int = 0, reference: str = "") -> Entry:
    at = DAY + timedelta(days=day)
    return Entry(number=number, booked=at, value=at, amount=amount, reference=reference, memo="")


def move(number: int, amount: int, *, day: int = 0, note: str = "", reverses: str = "") -> Move:
    return Move(
        version=number,
        transaction_id=f"t{number}",
        amount=amount,
        effective_at=DAY + timedelta(days=day, hours=9),
        kind="deposit",
        note=note,
        reverses=reverses,
    )


def statement(*entries: Entry, opening: int = 0) -> BankStatement:
    return BankStatement(
        account="1",
        currency="EUR",
        opening=opening,
        closing=opening + sum(item.amount for item in entries),
        opened=DAY - timedelta(days=1),
        closed=DAY + timedelta(days=30),
        entries=list(entries),
    )


def told(found: reconciliations.Reconciled) -> list[tuple[int | None, str | None]]:
    return [
        (
            item.entry.number if item.entry else None,
            item.move.transaction_id if item.move else None,
        )
        for item in found.breaks
    ]


class TestMatching:
    def test_equal_sides_have_no_break(self) -> None:
        found = match(
            statement(entry(1, 500), entry(2, 500), entry(3, -20, day=3)),
            [move(1, 500), move(2, -20, day=3), move(3, 500)],
        )
        assert (len(found.matched), found.breaks) == (3, [])

    def test_what_is_on_one_side_alone(self) -> None:
        found = match(statement(entry(1, 500), entry(2, 7)), [move(1, 500), move(2, 9)])
        assert told(found) == [(2, None), (None, "t2")]

    def test_a_reference_finds_the_other_amount(self) -> None:
        found = match(
            statement(entry(1, 1250, reference="INV-1234")), [move(1, 1520, note="INV-1234 rent")]
        )
        assert told(found) == [(1, "t1")]
        assert found.breaks[0].off == -270

    def test_days_apart_is_the_same_but_not_weeks(self) -> None:
        assert not match(statement(entry(1, 500)), [move(1, 500, day=3)]).breaks
        assert told(match(statement(entry(1, 500)), [move(1, 500, day=9)])) == [
            (1, None),
            (None, "t1"),
        ]

    def test_the_nearest_of_equals_is_taken(self) -> None:
        found = match(statement(entry(1, 5, day=4)), [move(1, 5, day=1), move(2, 5, day=4)])
        assert [item.transaction_id for _, item in found.matched] == ["t2"]

    def test_a_move_and_its_reversal_cancel(self) -> None:
        moves = [move(1, 90), move(2, -90, day=1, reverses="t1")]
        assert match(statement(entry(1, 5)), [*moves, move(3, 5)]).breaks == []

    def test_what_lies_outside_of_the_statement_is_no_break(self) -> None:
        assert match(statement(entry(1, 5)), [move(1, 5), move(2, 8, day=-3)]).breaks == []

    @given(
        st.lists(
            st.tuples(
                st.integers(-3, 3).filter(bool), st.integers(0, 20), st.booleans(), st.booleans()
            ),
            max_size=25,
        )
    )
    def test_breaks_add_up_to_the_difference(self, rows: list[tuple[int, int, bool, bool]]) -> None:
        entries = [entry(n, a, day=d) for n, (a, d, bank, _) in enumerate(rows) if bank]
        moves = [move(n, a, day=d) for n, (a, d, _, ledger) in enumerate(rows) if ledger]
        found = match(statement(*entries), moves)
        both = len(found.matched) + sum(item.entry is not None for item in found.breaks)
        assert both == len(entries)
        difference = sum(e.amount for e in entries) - sum(m.amount for m in moves)
        assert sum(item.off for item in found.breaks) == difference


@pytest.fixture
def account(send: Sender, settings: Any) -> str:
    """Opened early enough for the statement, with its opening balance."""
    settings.ALLOWED_HOSTS = ["*"]
    account_id = send.open()
    deposit(account_id, "100.00", "2026-03-01T00:00:00Z", send)
    return account_id


def deposit(account_id: str, amount: str, when: str, send: Sender, memo: str = "x") -> None:
    body = {"amount": amount, "currency": "EUR", "memo": memo, "effective_at": when}
    assert send(command_of("Deposit", body, {"account_id": account_id})[0]).error is None


def signed_in(role: str = "supervisor") -> Client:
    client = Client()
    client.force_login(user_with(role))
    return client


def upload(account_id: str, content: str = MT940, role: str = "supervisor") -> Any:
    file = SimpleUploadedFile("march.sta", content.encode())
    return signed_in(role).post(f"/accounts/{account_id}/reconcile", {"file": file})


class TestPages:
    def test_missing_entries_are_entered_once_and_the_statement_then_agrees(
        self, account: str, send: Sender
    ) -> None:
        deposit(account, "50.00", "2026-03-02T10:00:00Z", send, "B0001 Salary")
        answer = upload(account)
        assert answer.status_code == 302, answer.content
        page = signed_in().get(answer["Location"])
        text = page.content.decode()
        assert "2 breaks" in text
        assert "not in the ledger" in text
        entered = [
            response.status_code
            for response in in_threads(
                4, lambda _: signed_in().post(answer["Location"], {"entry": ["2", "3"]})
            )
        ]
        assert entered == [302] * 4
        assert history.current(account)[0].balance == 11950
        after = signed_in().get(answer["Location"]).content.decode()
        assert "agrees" in after
        assert "not in the ledger" not in after
        kept = answer["Location"].rpartition("/")[2]
        assert (
            Command.objects.filter(idempotency_key__startswith=f"reconciliation/{kept}").count()
            == 2
        )

    def test_a_refusal_is_said_and_can_be_mended(self, account: str, send: Sender) -> None:
        where = upload(account)["Location"]
        freeze = command_of("FreezeAccount", {"reason": "r"}, {"account_id": account})[0]
        assert send(freeze).error is None
        said = signed_in().post(where, {"entry": ["1"]}, follow=True).content.decode()
        assert "Refused: entry 1" in said
        thaw = command_of("UnfreezeAccount", {"reason": "r"}, {"account_id": account})[0]
        assert send(thaw).error is None
        signed_in().post(where, {"entry": ["1"]})
        assert history.current(account)[0].balance == 15000

    def test_a_difference_from_before_is_told_apart(self, account: str, send: Sender) -> None:
        deposit(account, "3.00", "2026-02-20T10:00:00Z", send)
        where = upload(account)["Location"]
        kept = reconciliations.find(where.rpartition("/")[2])
        found = reconciliations.compare(kept)
        assert (found.off, found.before, len(found.breaks)) == (11950 - 10300, -300, 3)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (MT940.replace("EUR", "USD"), "is in USD"),
            (MT940 + MT940.replace("12345678", "999"), "several accounts"),
            (MT940 + MT940, "do not continue"),
            (MT940.replace("119,50", "1,50"), "off by"),
            ("nothing", "no MT940"),
        ],
    )
    def test_a_wrong_file_is_refused(self, account: str, content: str, says: str) -> None:
        answer = upload(account, content)
        assert answer.status_code == 200
        assert says in answer.content.decode()
        assert not Reconciliation.objects.filter(account_id=account).exists()

    def test_tellers_and_auditors_may_not(self, account: str) -> None:
        where = upload(account)["Location"]
        for role in ("teller", "auditor", "customer"):
            assert upload(account, role=role).status_code == 403
            assert signed_in(role).get(where).status_code == 403
            assert signed_in(role).post(where, {"entry": ["1"]}).status_code == 403

    def test_unknown_is_not_found(self, account: str) -> None:
        assert signed_in().get(f"/reconciliations/{uuid4()}").status_code == 404
        assert signed_in().get(f"/accounts/{uuid4()}/reconcile").status_code == 404

    def test_a_kept_statement_cannot_be_changed(self, account: str) -> None:
        upload(account)
        with pytest.raises(psycopg.Error), connection.cursor() as cursor:
            try:
                cursor.execute("UPDATE ledger_reconciliation SET statement = '{}'")
            except Exception as error:
                raise error.__cause__ from None  # type: ignore[misc]


def test_a_supervisor_backdates_by_page_and_a_teller_does_not(send: Sender, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    account_id = send.open(balance=0)
    form = {"key": str(uuid4()), "amount": "5.00", "counterpart": "cash", "memo": "slip found",
            "effective_at": "2026-03-31"}  # fmt: skip
    path = f"/accounts/{account_id}/deposit"
    assert b"effective_at" not in signed_in("teller").get(path).content
    assert b"effective_at" in signed_in().get(path).content
    assert signed_in().post(path, form).status_code == 302
    [line] = [item for item in store.read_stream(account_id) if item.type == "MoneyDeposited"]
    assert line.effective_at == datetime(2026, 3, 31, tzinfo=UTC)
