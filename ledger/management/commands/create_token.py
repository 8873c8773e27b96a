"""Make an API token for a user."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from knox.models import get_token_model


class Command(BaseCommand):
    """Prints the token once; only its hash is stored."""

    help = "Create an API token: send it as 'Authorization: Bearer TOKEN'."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose token."""
        parser.add_argument("username")

    def handle(self, *_: Any, **options: Any) -> None:
        """Create and print it."""
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"there is no user {options['username']}")
        _, token = get_token_model().objects.create(user=user)
        self.stdout.write(token)
