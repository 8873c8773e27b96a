"""Make a key that signs seals."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import notes


class Command(BaseCommand):
    """Writes the private key to a file of its own, prints the public one."""

    help = "Make an Ed25519 key for seals; give its file in LEDGER_SEAL_KEYS."

    def add_arguments(self, parser: CommandParser) -> None:
        """The name that seals carry, and where the key goes."""
        parser.add_argument("name", help="who seals, as host/path: example.org/ledger")
        parser.add_argument("file", type=Path)

    def handle(self, *_: Any, **options: Any) -> None:
        """Never overwrites a key."""
        try:
            text = notes.Signer.generate(options["name"])
            handle = os.open(options["file"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except notes.NoteError as error:
            raise CommandError(str(error)) from error
        except FileExistsError as error:
            raise CommandError(f"{options['file']} exists: a key is never overwritten") from error
        except OSError as error:
            raise CommandError(f"cannot write {options['file']}: {error.strerror}") from error
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
        self.stdout.write(notes.Signer(text).public_text)
