"""Restore a backup into a scratch database and verify it: a backup that was never restored is a hope."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import seals

NOT_RESTORED = (" EXTENSION ", " SCHEMA ")
"""Objects of the server, not of the ledger; creating them takes a superuser."""


class Command(BaseCommand):
    """Exit code 1 when the restored database is not what was sealed."""

    help = (
        "Dump the database (or take --dump), restore it into a scratch database, verify that against "
        "the newest seals, drop it. Needs DATABASE_OWNER_URL, a role that may create databases."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """A backup that is there, and how to answer."""
        parser.add_argument("--dump", type=Path, help="a backup made by pg_dump --format custom")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_: Any, **options: Any) -> None:
        """Dump, restore, verify, drop."""
        url = os.environ.get("DATABASE_OWNER_URL", "")
        if not url:
            raise CommandError("DATABASE_OWNER_URL is not set: the drill creates a database")
        outside = (seals.newest(), seals.last_witnessed("events"))
        sealed = max((found.size for found in outside if found is not None), default=0)
        took: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            dump: Path = options["dump"] or Path(folder) / "ledger.dump"
            if options["dump"] is None:
                took["dump"] = self._run("pg_dump", "--format", "custom", "--file", str(dump), url)
            scratch = f"ledger_drill_{uuid4().hex[:12]}"
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{scratch}"')
            try:
                scratch_url = _with_database(url, scratch)
                took["restore"] = self._restore(dump, scratch_url, Path(folder))
                started = time.monotonic()
                report = _verify(scratch_url)
                took["verify"] = time.monotonic() - started
            finally:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(f'DROP DATABASE IF EXISTS "{scratch}" WITH (FORCE)')
        self._answer(report, sealed, took, as_json=options["json"], is_given=bool(options["dump"]))

    def _run(self, program: str, *arguments: str) -> float:
        folder = os.environ.get("LEDGER_PG_BIN", "")
        path = shutil.which(program, path=folder or None)
        if path is None:
            raise CommandError(
                f"{program} is not there: put it on PATH, or name its folder in LEDGER_PG_BIN"
            )
        started = time.monotonic()
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise CommandError(f"{program} failed: {done.stderr.strip()[-500:]}")
        return time.monotonic() - started

    def _restore(self, dump: Path, url: str, folder: Path) -> float:
        listed = folder / "list"
        self._run("pg_restore", "--list", "--file", str(listed), str(dump))
        kept = [
            line
            for line in listed.read_text().splitlines()
            if not any(word in line for word in NOT_RESTORED)
        ]
        listed.write_text("\n".join(kept) + "\n")
        return self._run(
            "pg_restore", "--exit-on-error", "--no-owner", "--use-list", str(listed),
            "--dbname", url, str(dump),
        )  # fmt: skip

    def _answer(
        self,
        report: dict[str, Any],
        sealed: int,
        took: dict[str, float],
        *,
        as_json: bool,
        is_given: bool,
    ) -> None:
        end = report["covered"].get("events", 0)
        behind = max(0, sealed - end)
        # A backup that was given may be old; one made just now must hold what was sealed before.
        wrong = [
            item
            for item in report["findings"]
            if item["column"] != "size" or (behind and not is_given)
        ]
        result = {
            "restored_events": end,
            "sealed_events": sealed,
            "behind_events": behind,
            "seconds": {name: round(value, 2) for name, value in took.items()},
            "findings": wrong,
        }
        if as_json:
            self.stdout.write(json.dumps(result))
        else:
            times = ", ".join(f"{name} {value:.1f} s" for name, value in took.items())
            self.stdout.write(f"{end:,} events restored and verified ({times})")
            if behind:
                self.stdout.write(
                    f"BEHIND: {sealed:,} events were sealed; this backup lacks the last {behind:,}"
                )
            for item in wrong:
                self.stdout.write(f"WRONG  {item['row']}, {item['column']}: {item['problem']}")
            if not wrong:
                self.stdout.write("everything in it holds")
        if wrong:
            sys.exit(1)


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _verify(url: str) -> dict[str, Any]:
    """``manage.py verify`` on another database, in a process of its own."""
    folder = seals.witness_folder()
    witness = ["--witness", str(folder)] if folder else []
    command = ["verify", "--database-only", "--json", *witness]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "manage.py", *command],
        cwd=settings.BASE_DIR,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise CommandError(f"verify failed: {done.stderr.strip()[-500:]}") from None
    return found
