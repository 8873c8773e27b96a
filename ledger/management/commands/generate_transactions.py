"""Write a CSV file of simulated bank transactions, columns as in the PKDD'99 bank data.

A plain simulation of people with salaries, rents and purchases. It shares no code with the ledger
on purpose: its balances are an independent record that an import must reproduce.
"""

import csv
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

COLUMNS = [
    "trans_id",
    "account_id",
    "date",
    "type",
    "operation",
    "amount",
    "balance",
    "k_symbol",
    "bank",
    "account",
]


def simulate(rows: int, accounts: int, seed: int, first_day: date) -> Any:
    """Yield `rows` rows in time order, cents kept as whole numbers, balances never negative."""
    dice = random.Random(seed)  # noqa: S311  (a simulation)
    cents = dict.fromkeys(range(1, accounts + 1), 0)
    salary = {account: dice.randrange(120_000, 600_000, 100) for account in cents}
    day, number = first_day, 0
    per_day = max(1, accounts // 3)
    while True:
        for account in dice.sample(sorted(cents), per_day):
            number += 1
            if number > rows:
                return
            if cents[account] < 20_000 or dice.random() < 0.2:
                amount, kind, how, why = (
                    salary[account],
                    "credit",
                    "collection from another bank",
                    "",
                )
            elif dice.random() < 0.1:
                amount, kind, how, why = dice.randrange(1, 900), "credit", "", "interest credited"
            elif dice.random() < 0.5:
                amount = dice.randrange(100, cents[account] // 2)
                kind, how, why = "withdrawal", "remittance to another bank", "household"
            else:
                amount = dice.randrange(100, cents[account] // 4)
                kind, how, why = "withdrawal", "withdrawal in cash", ""
            cents[account] += amount if kind == "credit" else -amount
            partner = ("QR", str(dice.randrange(10**7, 10**8))) if "another" in how else ("", "")
            yield (
                number,
                account,
                f"{day:%y%m%d}",
                kind,
                how,
                f"{amount // 100}.{amount % 100:02d}",
                f"{cents[account] // 100}.{cents[account] % 100:02d}",
                why,
                *partner,
            )
        day += timedelta(days=1)


class Command(BaseCommand):
    """Writes the file."""

    help = "Write a CSV file of simulated transactions with an independent running balance."

    def add_arguments(self, parser: CommandParser) -> None:
        """The file and its size; the same seed gives the same bytes."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--rows", type=int, default=5000)
        parser.add_argument("--accounts", type=int, default=60)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--first-day", type=date.fromisoformat, default=date(2024, 1, 1))

    def handle(self, *_: Any, **options: Any) -> None:
        """Stream the rows; memory does not grow with their number."""
        with options["file"].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(COLUMNS)
            writer.writerows(
                simulate(
                    options["rows"], options["accounts"], options["seed"], options["first_day"]
                )
            )
        self.stdout.write(f"{options['rows']} rows in {options['file']}")
