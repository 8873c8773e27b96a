"""Four eyes: nobody approves their own, by page, by race, or by SQL; what is approved happens once."""

import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client

from ledger import access, approvals, history, store
from ledger.domain import commands as c
from ledger.errors import ApprovalNeededError, ConflictError, ForbiddenError, LedgerError
from ledger.models import Command, Decision, Proposal
from tests.conftest import Sender, superuser, user_with


def supervisor(name: str) -> User:
    user, _ = User.objects.get_or_create(username=name)
    user.groups.add(Group.objects.get(name="supervisor"))
    return user


@pytest.fixture
def maker(live_db: None) -> User:
    return supervisor("maker")


@pytest.fixture
def checker(live_db: None) -> User:
    return supervisor("checker")


@pytest.fixture
def account(send: Sender, settings: Any) -> str:
    settings.ALLOWED_HOSTS = ["*"]
    return send.open(balance=10_000)


def propose(maker: User, account: str, amount: str = "-25.00", key: str = "") -> Proposal:
    body = {"amount": amount, "currency": "EUR", "reason": "charged twice"}
    return approvals.propose(
        maker,
        "AdjustBalance",
        body,
        {"account_id": account},
        key=key or str(uuid4()),
        reason="charged twice",
    )


def balance(account: str) -> int:
    return history.current(account)[0].balance


def page(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


class TestPolicy:
    def test_people_need_a_second_person_and_programs_do_not(self, account: str) -> None:
        command = c.AdjustBalance(account_id=account, amount=1, currency="EUR", reason="x")
        with pytest.raises(ApprovalNeededError):
            access.check_command(user_with("supervisor"), command)
        access.check_command(user_with("service"), command)

    @pytest.mark.parametrize(
        ("amount", "currency", "needed"),
        [(100_000, "EUR", False), (100_001, "EUR", True), (1_000, "JPY", False),
         (1_001, "JPY", True), (1_000_000, "BHD", False), (1_000_001, "BHD", True)],
    )  # fmt: skip
    def test_the_threshold_is_in_units_of_the_currency(
        self, settings: Any, amount: int, currency: str, needed: bool
    ) -> None:
        settings.LEDGER_APPROVAL = {"Withdraw": 1000}
        command = c.Withdraw(account_id=str(uuid4()), amount=amount, currency=currency)
        assert access.needs_approval(command) == needed

    def test_a_dry_run_needs_nobody(self, account: str, maker: User) -> None:
        proposal = propose(maker, account)
        outcome = approvals.try_now(proposal)
        assert outcome.accounts[0].balance == 7_500
        assert balance(account) == 10_000


class TestDecide:
    def test_approved_happens_once_and_names_both(
        self, account: str, maker: User, checker: User
    ) -> None:
        proposal = propose(maker, account)
        outcome = approvals.decide(checker, proposal, approved=True, note="")
        assert outcome is not None
        assert outcome.error is None
        assert balance(account) == 7_500
        [*_, event] = store.read_stream(account)
        assert event.metadata.actor == "maker, approved by checker"
        assert event.metadata.causation_id == str(proposal.pk)
        with pytest.raises(ConflictError):
            approvals.decide(checker, approvals.find(str(proposal.pk)), approved=True, note="")
        assert balance(account) == 7_500

    def test_rejected_needs_a_reason_and_moves_nothing(
        self, account: str, maker: User, checker: User
    ) -> None:
        proposal = propose(maker, account)
        with pytest.raises(LedgerError, match="say why"):
            approvals.decide(checker, proposal, approved=False, note=" ")
        assert approvals.decide(checker, proposal, approved=False, note="no receipt") is None
        assert balance(account) == 10_000
        assert approvals.outcome_of(proposal) is None

    def test_the_maker_may_not(self, account: str, maker: User) -> None:
        with pytest.raises(ForbiddenError):
            approvals.decide(maker, propose(maker, account), approved=True, note="")
        assert balance(account) == 10_000

    @pytest.mark.parametrize("role", ["teller", "auditor", "customer"])
    def test_nor_a_role_that_may_not_correct(self, account: str, maker: User, role: str) -> None:
        with pytest.raises(ForbiddenError):
            approvals.decide(user_with(role), propose(maker, account), approved=True, note="")

    def test_a_refusal_after_approval_is_recorded(
        self, account: str, maker: User, checker: User
    ) -> None:
        proposal = propose(maker, account, amount="-999.00")
        outcome = approvals.decide(checker, proposal, approved=True, note="")
        assert outcome is not None
        assert outcome.error is not None
        record = approvals.outcome_of(proposal)
        assert record is not None
        assert record.outcome == "rejected"

    def test_a_double_click_is_one_proposal(self, account: str, maker: User) -> None:
        key = str(uuid4())
        assert propose(maker, account, key=key).pk == propose(maker, account, key=key).pk
        with pytest.raises(LedgerError, match="another proposal"):
            propose(maker, account, amount="-1.00", key=key)

    def test_many_approve_at_once_and_it_happens_once(
        self, account: str, maker: User, checker: User
    ) -> None:
        proposal = propose(maker, account)
        start, results = threading.Barrier(6), list[str]()

        def approve() -> None:
            start.wait()
            try:
                approvals.decide(checker, proposal, approved=True, note="")
                results.append("approved")
            except ConflictError:
                results.append("conflict")
            finally:
                connection.close()

        threads = [threading.Thread(target=approve) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["approved"] + ["conflict"] * 5
        assert balance(account) == 7_500

    def test_a_process_that_ends_in_between_loses_nothing(
        self, account: str, maker: User, checker: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proposal = propose(maker, account)
        with monkeypatch.context() as patch:
            patch.setattr(approvals, "_send", lambda *_: None)  # killed after the decision
            approvals.decide(checker, proposal, approved=True, note="")
        assert balance(account) == 10_000
        monkeypatch.setattr(approvals, "RESUME_AFTER", approvals.RESUME_AFTER * 0)
        assert approvals.resume() >= 1
        assert balance(account) == 7_500
        approvals.resume()
        assert balance(account) == 7_500
        assert Command.objects.filter(idempotency_key=str(proposal.pk)).count() == 1


class TestByDatabase:
    """As the application's own role and as the owner, past all of our code."""

    def insert(self, proposal: Proposal, made_by: str, decided_by: str) -> None:
        with superuser(connection.settings_dict["NAME"]) as admin:
            admin.execute("SET ROLE ledger_app")
            admin.execute(
                "INSERT INTO ledger_decision (proposal_id, made_by, approved, note, seen, decided_by) "
                "VALUES (%s, %s, true, '', '{}', %s)",
                [proposal.pk, made_by, decided_by],
            )

    def test_the_second_person_is_another_one(self, account: str, maker: User) -> None:
        proposal = propose(maker, account)
        with pytest.raises(psycopg.errors.CheckViolation, match="second_person"):
            self.insert(proposal, "maker", "maker")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            self.insert(proposal, "somebody", "maker")
        self.insert(proposal, "maker", "checker")

    @pytest.mark.parametrize("table", ["ledger_proposal", "ledger_decision"])
    @pytest.mark.parametrize(
        "change", ["UPDATE {} SET made_by = 'x'", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
    )
    def test_nothing_is_changed_after(
        self, account: str, maker: User, checker: User, table: str, change: str
    ) -> None:
        approvals.decide(checker, propose(maker, account), approved=True, note="")
        with (
            superuser(connection.settings_dict["NAME"]) as admin,
            pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"),
        ):
            admin.execute(change.format(table))


class TestPages:
    def test_from_the_form_to_the_balance(self, account: str, maker: User, checker: User) -> None:
        form = {"key": str(uuid4()), "amount": "-25.00", "reason": "charged twice"}
        sent = page(maker).post(f"/accounts/{account}/adjust", form)
        assert sent.status_code == 302
        where = sent["Location"]
        assert where.startswith("/approvals/")
        assert balance(account) == 10_000
        own = page(maker).get(where).content.decode()
        assert "You proposed it" in own
        assert 'value="approve"' not in own
        listed = page(checker).get("/approvals").content.decode()
        assert where in listed
        shown = page(checker).get(where).content.decode()
        assert "100.00 (version 2)" in shown
        assert "75.00" in shown
        own_try = page(maker).post(where, {"decision": "approve"})
        assert own_try.status_code == 400
        done = page(checker).post(where, {"decision": "approve"}, follow=True)
        assert "Approved and recorded" in done.content.decode()
        assert balance(account) == 7_500
        again = page(checker).post(where, {"decision": "approve"})
        assert again.status_code == 400

    def test_a_reversal_waits_too(
        self, account: str, send: Sender, maker: User, checker: User
    ) -> None:
        paid = send(c.Withdraw(account_id=account, amount=700, currency="EUR"))
        form = {"key": str(uuid4()), "reason": "wrong account"}
        sent = page(maker).post(f"/transactions/{paid.command_id}", form)
        where = sent["Location"]
        assert balance(account) == 9_300
        page(checker).post(where, {"decision": "approve"})
        assert balance(account) == 10_000
        assert Decision.objects.get(proposal_id=where.rsplit("/", 1)[1]).approved

    def test_rejecting_without_a_note_is_said(
        self, account: str, maker: User, checker: User
    ) -> None:
        where = f"/approvals/{propose(maker, account).pk}"
        answer = page(checker).post(where, {"decision": "reject"})
        assert answer.status_code == 400
        assert "say why it is rejected" in answer.content.decode()
