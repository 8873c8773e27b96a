"""One JSON Schema file per event type and schema version, as makemigrations is to models."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandParser

from ledger.codec import SCHEMAS
from ledger.domain.events import EVENT_TYPES, Event


def schema_of(cls: type[Event]) -> str:
    """The JSON Schema of a payload class, as it is written to its file."""
    schema = msgspec.json.schema(cls)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"ledger.{cls.__name__}.v{cls.schema_version}"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def find_changes(folder: Path = SCHEMAS) -> list[tuple[Path, str, str]]:
    """(file, wanted content, problem) for each schema file that is missing or differs."""
    changes = []
    for name, cls in EVENT_TYPES.items():
        for version in range(1, cls.schema_version):
            path = folder / f"{name}.v{version}.json"
            if not path.exists():
                changes.append((path, "", "is missing: a released schema is kept for ever"))
        path = folder / f"{name}.v{cls.schema_version}.json"
        wanted = schema_of(cls)
        if not path.exists():
            changes.append((path, wanted, "is missing: run manage.py makeschemas"))
        elif path.read_text(encoding="utf-8") != wanted:
            changes.append(
                (path, wanted, "differs: raise the schema_version and write an upcaster")
            )
    return changes


class Command(BaseCommand):
    """Writes what is missing; a released schema is never overwritten."""

    help = "Write a JSON Schema file for each event type and version."

    def add_arguments(self, parser: CommandParser) -> None:
        """--check for CI."""
        parser.add_argument("--check", action="store_true", help="write nothing, fail on changes")

    def handle(self, *_: Any, **options: Any) -> None:
        """Exit code 1 when a payload changed without a new version."""
        refused = False
        for path, wanted, problem in find_changes():
            if options["check"] or path.exists() or not wanted:
                self.stderr.write(f"{path.name} {problem}")
                refused = True
            else:
                path.parent.mkdir(exist_ok=True)
                path.write_text(wanted, encoding="utf-8")
                self.stdout.write(f"wrote {path.name}")
        if refused:
            sys.exit(1)
