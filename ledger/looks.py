"""Reads by people are evidence too: who looked at which account, as of when, and why.

Staff and auditors are recorded before they see anything; if that fails they see nothing. Programs
(the service role) and customers, who see only what is theirs, are not. Looking at the past asks for
a reason, looking at the present takes one if it was given. The record is append-only and sealed like
the log (`store.record_access`, audit.seals).
"""

import time
from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest

from ledger import store
from ledger.errors import InvalidInputError
from ledger.roles import actions_of

REASON_MIN, REASON_MAX = 3, 200
MOMENT_MAX = 500


def is_recorded(user: Any) -> bool:
    """Whether looks of `user` are recorded."""
    return "staff" in actions_of(user)


def check_reason(text: str, *, field: str) -> str:
    """The reason without spaces around it.

    Raises:
        InvalidInputError: it is no reason.
    """
    reason = text.strip()
    if not (REASON_MIN <= len(reason) <= REASON_MAX and reason.isprintable()):
        raise InvalidInputError(
            f"say why you look, such as a ticket or case number: {REASON_MIN} to {REASON_MAX} "
            "printable characters",
            field=field,
        )
    return reason


REASON_KEY = "read_reason"
REASON_SECONDS = 3600
"""After an hour the reason is asked for again: the work may be another."""


def reason_of(request: HttpRequest) -> str:
    """Why this user looks at accounts, as stated within the last hour; empty if not."""
    session = getattr(request, "session", {})  # a request with a token has none
    stated = session.get(REASON_KEY) or {"text": "", "until": 0}
    return str(stated["text"]) if stated["until"] > time.time() else ""


def state_reason(request: HttpRequest, text: str) -> None:
    """Keep the reason that the user gives.

    Raises:
        InvalidInputError: it is none.
    """
    reason = check_reason(text, field="reason")
    request.session[REASON_KEY] = {"text": reason, "until": time.time() + REASON_SECONDS}


def record(
    user: Any,
    what: str,
    *,
    accounts: Sequence[str] = (),
    moment: str = "",
    reason: str = "",
    channel: str,
    correlation_id: str = "",
) -> None:
    """Record that `user` looks at `what`: once for each account, or once for a list of them.

    `moment` says as of when, or what was asked for, in the words of the request.
    """
    if not is_recorded(user):
        return
    for account_id in accounts or (None,):
        store.record_access(
            {
                "actor": user.get_username(),
                "what": what,
                "account_id": account_id,
                "moment": moment.replace("\x00", "")[:MOMENT_MAX],
                "reason": reason,
                "channel": channel,
                "correlation_id": correlation_id,
            }
        )
