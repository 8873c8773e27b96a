"""Write docs/asyncapi.json from the payload classes."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from projections import asyncapi

PATH = Path(__file__).resolve().parents[3] / "docs" / "asyncapi.json"
PARTITIONS = 12


class Command(BaseCommand):
    """As makeschemas, for those who read the topics."""

    help = "Write the AsyncAPI document of the Kafka topics."

    def add_arguments(self, parser: CommandParser) -> None:
        """--check for CI."""
        parser.add_argument("--check", action="store_true", help="write nothing, fail on changes")

    def handle(self, *_: Any, **options: Any) -> None:
        """Exit code 1 when the document is not what the code publishes."""
        wanted = json.dumps(asyncapi.document(partitions=PARTITIONS), indent=1) + "\n"
        if PATH.exists() and PATH.read_text(encoding="utf-8") == wanted:
            return
        if options["check"]:
            self.stderr.write(f"{PATH.name} differs: run manage.py makeasyncapi")
            sys.exit(1)
        PATH.write_text(wanted, encoding="utf-8")
        self.stdout.write(f"wrote {PATH.name}")
