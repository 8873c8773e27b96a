"""Commands and reads from the command line, with the same rules as over REST."""

import json
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from ledger import store
from ledger.models import Command
from tests.conftest import user_with


@pytest.fixture
def run(live_db: None, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a management command and gives its JSON."""

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        call_command(*arguments)
        return json.loads(capsys.readouterr().out)

    return call


def test_send_and_look_back(run: Any) -> None:
    user, reference = user_with("supervisor").username, f"cli-{uuid4().hex[:8]}"
    opened = run(
        "send",
        "OpenAccount",
        "holder=Ann",
        "currency=EUR",
        f"reference={reference}",
        "--user",
        user,
    )
    account = f"account_id={opened['accounts'][0]['id']}"
    deposit = (
        "send",
        "Deposit",
        account,
        "amount=12.50",
        "currency=EUR",
        "--user",
        user,
        "--key",
        reference,
    )
    dry = run(*deposit, "--dry-run")
    first, again = run(*deposit), run(*deposit)
    assert dry["accounts"] == first["accounts"] == again["accounts"]
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert Command.objects.get(pk=first["command_id"]).channel == "cli"
    assert run("account", reference)["account"]["balance"] == "12.50"
    past = run("account", reference, "--as-of", opened["recorded_at"])
    assert (past["account"]["balance"], past["boundary"]["version"]) == ("0.00", 1)
    assert run("account", reference, "--version", "1")["account"]["balance"] == "0.00"


def test_refusals_and_bad_input_say_why(run: Any) -> None:
    user = user_with("teller").username
    opened = run("send", "OpenAccount", "holder=Ann", "currency=EUR", "--user", user)
    account = f"account_id={opened['accounts'][0]['id']}"
    before = store.last_position()
    with pytest.raises(SystemExit):
        call_command("send", "Withdraw", account, "amount=1", "currency=EUR", user=user)
    for arguments, words in (
        (("send", "Withdraw", account, "amount=1e3", "currency=EUR"), "amount"),
        (("send", "Deposit", "amount=1", "currency=EUR"), "account_id"),
        (("send", "Deposit", account, "amount"), "field=value"),
        (("send", "FreezeAccount", account, "reason=x"), "role"),
    ):
        with pytest.raises(CommandError, match=words):
            call_command(*arguments, user=user)
    with pytest.raises(CommandError, match="as_of"):
        call_command("account", str(uuid4()), as_of="yesterday")
    assert store.last_position() == before
