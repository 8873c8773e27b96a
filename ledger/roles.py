"""Who may do what: everything is denied that is not granted here.

A user's roles are the names of their groups. Actions are those of the commands
(`ledger.domain.commands`), and for reading: `read` accounts, `read_log` the whole log, `audit` the
admin, `operate` rebuilds, `backdate` an effective time in the past, `import` files,
`approve` what others proposed, `close_period` accounting periods. `staff` are people
whose looks are recorded.
"""

from collections.abc import Mapping
from typing import Any

from ledger.errors import ForbiddenError

_TELLER = frozenset({"staff", "read", "open", "deposit", "withdraw", "transfer", "hold"})
_SUPERVISOR = _TELLER | {
    "reverse",
    "adjust",
    "freeze",
    "set_limit",
    "change_holder",
    "close",
    "erase",
    "backdate",
    "import",
    "operate",
    "read_log",
    "approve",
    "close_period",
}

ROLES: Mapping[str, frozenset[str]] = {
    "teller": _TELLER,
    "supervisor": _SUPERVISOR,
    "auditor": frozenset({"staff", "read", "read_log", "audit"}),
    "service": _SUPERVISOR - {"operate", "staff", "approve", "close_period"},
    "customer": frozenset({"read_own", "transfer_own"}),
}


def actions_of(user: Any) -> frozenset[str]:
    """Everything that `user` may do; nothing for somebody not signed in or not active.

    A superuser manages users and reads like an auditor; moving money needs a role.
    """
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    cached: frozenset[str] | None = getattr(user, "_ledger_actions", None)
    if cached is None:
        names = {group.name for group in user.groups.all()}
        cached = frozenset().union(*(ROLES[name] for name in names if name in ROLES))
        if user.is_superuser:
            cached |= ROLES["auditor"]
        user._ledger_actions = cached  # noqa: SLF001  (kept as long as this object)
    return cached


def require(user: Any, action: str) -> None:
    """Raise `ForbiddenError` unless `user` may do `action`."""
    if action not in actions_of(user):
        raise ForbiddenError(f'your role does not allow "{action}"')
