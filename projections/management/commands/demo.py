"""Demo users and data: a file of simulated transactions, imported through the front door."""

import tempfile
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from ledger import store
from ledger.domain import commands as c
from ledger.handlers import envelope
from ledger.roles import ROLES
from ledger.service import bus

ROWS = 3000


class Command(BaseCommand):
    """Safe to run again: users keep their passwords, data goes in once."""

    help = "Create demo users (one per role, and admin) and import demo data."

    def add_arguments(self, parser: CommandParser) -> None:
        """The password of new users."""
        parser.add_argument("--password", required=True)
        parser.add_argument("--rows", type=int, default=ROWS)

    def handle(self, *_: Any, **options: Any) -> None:
        """Users first, then data into an empty ledger only."""
        for role in ROLES:
            user, created = User.objects.get_or_create(username=role)
            if created:
                user.set_password(options["password"])
                user.save()
                user.groups.add(Group.objects.get(name=role))
        if not User.objects.filter(username="admin").exists():
            User.objects.create_superuser("admin", password=options["password"])
        if store.last_position():
            self.stdout.write("the ledger has data: none added")
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "demo.csv"
            call_command("generate_transactions", path, rows=options["rows"], accounts=40)
            call_command("import_transactions", path, source="demo", verify_balance=True)
        self._customer_account()

    def _customer_account(self) -> None:
        """An account that the demo customer may see."""
        account_id = "d0000000-0000-4000-8000-000000000001"
        steps = [
            c.OpenAccount(
                account_id=account_id, holder="Demo Customer", currency="EUR", owner="customer"
            ),
            c.Deposit(
                account_id=account_id, amount=125_000, currency="EUR", memo="Opening deposit"
            ),
            c.PlaceHold(account_id=account_id, amount=4_500, currency="EUR", counterpart="card"),
        ]
        for number, command in enumerate(steps):
            bus.send_one(
                envelope(command, sender="demo", key=str(number), actor="demo", channel="system")
            )
