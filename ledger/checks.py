"""What Django checks before anything starts: the upcaster chain and the database's guards."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.db import DatabaseError

from ledger import privacy, store, upcasters
from ledger.domain.events import EVENT_TYPES


def check_upcasters(**_: Any) -> list[CheckMessage]:
    """Refuse to start with a gap in the chain of upcasters."""
    current = {name: cls.schema_version for name, cls in EVENT_TYPES.items()}
    return [Error(problem, id="ledger.E001") for problem in upcasters.find_gaps(current)]


def check_privacy_keys(**_: Any) -> list[CheckMessage]:
    """The keys that wrap the keys of personal data are keys."""
    problem = privacy.check_keys(settings.LEDGER_PRIVACY_KEYS)
    return [Error(problem, id="ledger.E004")] if problem else []


def check_guards(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Refuse a database without the constraints, triggers and functions that keep the promises."""
    if not databases or "default" not in databases:
        return []
    try:
        missing = store.missing_guards()
    except DatabaseError as error:
        return [Error(f"the database cannot be read: {error}", id="ledger.E002")]
    return [
        Error(
            f"the database lacks {name}: run migrate, or restore it",
            id="ledger.E003",
        )
        for name in missing
    ]
