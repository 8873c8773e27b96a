"""Send one command, as the REST API would."""

import json
import sys
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ledger import access
from ledger.api.serializers import outcome_as_json
from ledger.api.views import BATCH_COMMANDS, command_of_item
from ledger.errors import LedgerError
from ledger.service import bus


class Command(BaseCommand):
    """Same checks, roles, idempotency and outcome as over REST."""

    help = "Send a command: send Deposit account_id=ID amount=12.50 currency=EUR --user teller"

    def add_arguments(self, parser: CommandParser) -> None:
        """The command, its fields, and who sends it."""
        parser.add_argument("name", choices=sorted(BATCH_COMMANDS))
        parser.add_argument("fields", nargs="*", metavar="field=value")
        parser.add_argument("--user", required=True, help="whose roles count and who is recorded")
        parser.add_argument("--key", help="idempotency key; made and printed if not given")
        parser.add_argument("--dry-run", action="store_true", help="decide, store nothing")

    def handle(self, *_: Any, **given: Any) -> None:
        """Print the outcome as JSON; exit code 1 when the command was refused."""
        user = User.objects.filter(username=given["user"]).first()
        if user is None:
            raise CommandError(f"there is no user {given['user']}")
        item = {"command": given["name"]}
        for pair in given["fields"]:
            name, equals, value = pair.partition("=")
            if not equals or name in item:
                raise CommandError(f'"{pair}" is not field=value, or says a field twice')
            item[name] = value
        key = given["key"] or str(uuid4())
        try:
            command, said = command_of_item(item)
            access.check_command(user, command)
            outcome = bus.send_one(
                access.envelope_for(
                    user, command, said, key=key, channel="cli", dry_run=given["dry_run"]
                )
            )
        except LedgerError as error:
            raise CommandError(error.with_field) from error
        answer: dict[str, Any] = {"idempotency_key": key, "replayed": outcome.replayed}
        if outcome.error is not None:
            answer |= {"status": "rejected", **outcome.error.as_record()}
        else:
            answer |= outcome_as_json(outcome)
        self.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False))
        if outcome.error is not None:
            sys.exit(1)
