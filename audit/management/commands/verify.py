"""Verify the whole log and everything derived from it in PostgreSQL."""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from audit import checks, seals
from ledger import history
from ledger.progress import ProgressBar
from ledger.store import LOGS


class Command(BaseCommand):
    """Exit code 1 when anything is wrong; the first finding along the log comes first."""

    help = (
        "Verify hashes, trees, seals, commands, looks, versions, heads, snapshots, Redis and the "
        "trial balance against the events."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Where seals are kept outside, and how to answer."""
        parser.add_argument(
            "--witness",
            type=Path,
            default=seals.witness_folder(),
            help="the directory of a witness, by default that of LEDGER_WITNESS: its seals count too",
        )
        parser.add_argument(
            "--database-only", action="store_true", help="leave Redis and Kafka alone"
        )
        parser.add_argument("--json", action="store_true")

    def handle(self, *_: Any, **options: Any) -> None:
        """Events, other logs and accounts side by side: each reads with a connection of its own."""
        witnessed = seals.witnessed_in(options["witness"])
        if options["database_only"]:
            history.forget_copies()
        connection.close()
        bar = ProgressBar("entries", stream=sys.stderr)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            others = [
                pool.apply_async(checks.check_log, [LOGS[1:]], {"witness": witnessed}),
                pool.apply_async(checks.check_accounts),
            ]
            report = checks.check_log(LOGS[:1], witness=witnessed, progress=bar.show)
            bar.close()
            for other in others:
                report.take(other.get())
        if options["json"]:
            self.stdout.write(json.dumps(msgspec.to_builtins(report)))
        else:
            for finding in report.findings:
                self.stdout.write(f"WRONG  {finding}")
            self.stdout.write(
                ", ".join(f"{report.covered.get(log, 0):,} {log}" for log in LOGS)
                + f", {report.accounts:,} accounts, {report.copies:,} copies of them, "
                + f"{report.seals:,} seals: "
                + (f"{report.findings_total:,} wrong" if report.findings_total else "all hold")
            )
        if report.findings_total:
            sys.exit(1)
