"""Read a file of export_log into an empty database."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from audit import archive
from ledger import history
from ledger.progress import ProgressBar


class Command(BaseCommand):
    """Exit code 1 when anything in the file is wrong; nothing is written then."""

    help = (
        "Read a file of export_log into an empty, migrated database and verify all of it, with the "
        "same numbers, times and hashes. Needs DATABASE_OWNER_URL, and in LEDGER_SEAL_KEYS or "
        "LEDGER_SEAL_PUBLIC_KEYS the keys that sealed it. Users and roles are not part of the log."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Where from."""
        parser.add_argument("file", type=Path)

    def handle(self, *_: Any, **options: Any) -> None:
        """Everything over the owner's connection: no other role may write rows as they are."""
        if "owner" not in connections.databases:
            raise CommandError("DATABASE_OWNER_URL is not set: only the owner may write a log")
        connections[DEFAULT_DB_ALIAS] = connections["owner"]
        history.forget_copies()
        bar = ProgressBar("entries", stream=sys.stderr)
        try:
            report = archive.restore(options["file"], progress=bar.show)
        except archive.ArchiveError as error:
            raise CommandError(f"{error}. Nothing was written.") from error
        finally:
            bar.close()
        for finding in report.findings:
            self.stdout.write(f"WRONG  {finding}")
        if report.findings_total:
            self.stdout.write(f"{report.findings_total:,} wrong: nothing was written")
            sys.exit(1)
        said = ", ".join(f"{end:,} {log}" for log, end in report.covered.items())
        self.stdout.write(f"{said}, {report.accounts:,} accounts, {report.seals:,} seals: all hold")
