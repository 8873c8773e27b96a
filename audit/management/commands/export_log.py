"""Write the whole log to a file."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import archive
from ledger.progress import ProgressBar


class Command(BaseCommand):
    """Commands go on meanwhile; the file ends where the log ended at the start."""

    help = "Write all events, records of commands, looks and seals to a file for import_log."

    def add_arguments(self, parser: CommandParser) -> None:
        """Where to."""
        parser.add_argument(
            "file", type=Path, help="for example ledger-log.jsonl.gz; must not exist"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Export with a progress bar."""
        path: Path = options["file"]
        if path.exists():
            raise CommandError(f"{path} is there already: name a new file")
        bar = ProgressBar("entries", stream=sys.stderr)
        ends = archive.export(path, progress=bar.show)
        bar.close()
        said = ", ".join(f"{end:,} {log}" for log, end in ends.items())
        self.stdout.write(f"{said} written to {path}")
