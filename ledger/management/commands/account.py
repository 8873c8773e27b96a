"""Show an account, now or at any past moment."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ledger import history
from ledger.api.serializers import account_id_of_reference, canonical_uuid
from ledger.api.views import moment_of, state_as_json
from ledger.errors import InvalidInputError, LedgerError


class Command(BaseCommand):
    """Reads the event store, never a projection."""

    help = "Show an account as JSON: account ID --as-of 2026-03-31T12:00:00Z"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which account, and when."""
        parser.add_argument("account", help="an id, or a reference")
        parser.add_argument("--as-of", help="RFC 3339, or a date: the end of that day, UTC")
        parser.add_argument("--version")
        parser.add_argument("--position")
        parser.add_argument("--effective-as-of", help="what counted by then")

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        """Django's own --version gives way to the account's."""
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **options)

    def handle(self, *_: Any, **given: Any) -> None:
        """Print the state and the boundary that answers."""
        names = ("as_of", "version", "position", "effective_as_of")
        asked = {name: given[name] for name in names if given[name] is not None}
        try:
            try:
                account_id = canonical_uuid(given["account"], field="account")
            except InvalidInputError:
                account_id = account_id_of_reference(given["account"])
            found = history.state_at(account_id, moment_of(asked))
        except LedgerError as error:
            raise CommandError(error.with_field) from error
        self.stdout.write(json.dumps(state_as_json(found), indent=2, ensure_ascii=False))
