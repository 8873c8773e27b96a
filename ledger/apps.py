"""Registers the event store; grants the application role what it needs after migrations."""

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import connections
from django.db.models.signals import post_migrate

LEDGER_TABLES = frozenset({"ledger_event", "ledger_command", "ledger_account", "ledger_snapshot"})
READ_ONLY_TABLES = LEDGER_TABLES | {"ledger_access", "django_migrations"}
APPEND_ONLY_TABLES = frozenset(
    {
        "audit_node", "audit_seal", "ledger_proposal", "ledger_decision", "ledger_period",
        "ledger_sum", "ledger_reconciliation",
    }
)  # fmt: skip


class LedgerConfig(AppConfig):
    """The event store."""

    name = "ledger"
    verbose_name = "Event store"

    def ready(self) -> None:
        """Hook up checks and grants."""
        from ledger import checks as ledger_checks

        checks.register(ledger_checks.check_upcasters)
        checks.register(ledger_checks.check_privacy_keys)
        checks.register(ledger_checks.check_guards, checks.Tags.database)
        post_migrate.connect(grant_application_role, sender=self)


def grant_application_role(*, using: str, **_: Any) -> None:
    """Give ``ledger_app`` what the processes need, and the roles their groups.

    On the ledger's own tables that is SELECT alone: writes go through ``ledger_append``.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            rights = "SELECT, INSERT, UPDATE, DELETE"
            if table in READ_ONLY_TABLES:
                rights = "SELECT"
            elif table in APPEND_ONLY_TABLES:
                rights = "SELECT, INSERT"
            quoted = connection.ops.quote_name(table)
            cursor.execute(f"GRANT {rights} ON {quoted} TO ledger_app")
        cursor.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ledger_app")
    from django.contrib.auth.models import Group

    from ledger.roles import ROLES

    for name in ROLES:
        Group.objects.using(using).get_or_create(name=name)
