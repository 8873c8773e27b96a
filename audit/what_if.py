"""What if: a command decided against the account as it was at a moment. Nothing is stored.

The same rules as for the real thing (`ledger.domain.decide`), with the clock at the moment.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import uuid4

import msgspec

from audit.timeline import Asked
from ledger import history, store
from ledger.api.serializers import account_id_of, command_of
from ledger.domain.decide import Facts, apply, decide
from ledger.domain.state import Account
from ledger.errors import InvalidInputError, NotFoundError, Rejected
from ledger.history import Moment, StateAt

COMMANDS: Mapping[str, str] = {
    "Deposit": "deposit",
    "Withdraw": "withdraw",
    "Transfer": "transfer",
    "PlaceHold": "place a hold",
    "CloseAccount": "close",
}


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the account after it, or the refusal; `events` are the words of what would happen."""

    found: StateAt
    name: str
    refusal: Rejected | None = None
    after: Account | None = None
    events: list[str] = []


def what_if(account_id: str, asked: Asked) -> WhatIf:
    """Decide the command asked about, at the moment asked about.

    Raises:
        LedgerError: the moment or the command is not valid.
    """
    name = asked.get("command")
    if name not in COMMANDS:
        raise InvalidInputError(f"must be one of {', '.join(COMMANDS)}", field="command")
    found = history.state_at(account_id, asked.moment())
    body: dict[str, str] = {}
    ids = {"account_id": account_id}
    if name != "CloseAccount":
        body = {"amount": asked.get("amount"), "currency": found.account.currency}
    if name == "Transfer":
        ids = {}
        body |= {
            "from_account_id": account_id,
            "to_account_id": account_id_of(asked.get("to_account_id")),
        }
    command, _ = command_of(name, body, ids)
    position, now = _boundary(found)
    accounts = {
        other: found.account if other == account_id else _other(other, position)
        for other in command.account_ids
    }
    facts = Facts(command_id=str(uuid4()), now=now, accounts=accounts)
    try:
        decided = decide(command, facts)
    except Rejected as refusal:
        return WhatIf(found=found, name=COMMANDS[name], refusal=refusal)
    return WhatIf(
        found=found,
        name=COMMANDS[name],
        after=apply(accounts, decided)[account_id],
        events=[event.kind for of_account, event, _ in decided if of_account == account_id],
    )


def _boundary(found: StateAt) -> tuple[int, datetime]:
    """Where in the log the moment is, and what the clock says there."""
    moment = found.moment
    if moment.as_of is not None:
        return history.check_moment(moment)[0], moment.as_of
    if moment.version is None or found.recorded_at is None:
        return found.log_position, store.clock()
    return found.position, found.recorded_at


def _other(account_id: str, position: int) -> Account:
    try:
        return history.state_at(account_id, Moment(position=position)).account
    except NotFoundError:
        return Account(account_id=account_id)
