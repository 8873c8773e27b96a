"""Fold the whole log with the code as it is; compare with what older code made; swap."""

import json
import sys
from contextlib import suppress
from typing import Any

import msgspec
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from audit import replay
from ledger.codec import STATE_SCHEMA
from ledger.progress import ProgressBar


class Command(BaseCommand):
    """Reads only, unless told to swap. Exit code 1 when an account differs."""

    help = (
        "Replay every account and list those whose heads, snapshots or entries in Redis differ, with "
        "the first event at which they part. --swap makes all of them anew with today's code."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do then, and how to answer."""
        parser.add_argument("--swap", action="store_true", help="then replace what older code made")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_: Any, **options: Any) -> None:
        """Compare first, so that the report is of what was there."""
        bar = ProgressBar("accounts", stream=sys.stderr)
        report = replay.replay(schema=STATE_SCHEMA, progress=bar.show)
        bar.close()
        if options["json"]:
            self.stdout.write(json.dumps(msgspec.to_builtins(report)))
        else:
            for item in report.partings:
                self.stdout.write(_line(item))
            self.stdout.write(
                f"{report.accounts:,} accounts, {report.events:,} events folded, "
                f"{report.compared:,} states compared ({report.older:,} made by older code): "
                f"{report.differing:,} accounts differ"
            )
        if options["swap"]:
            call_command("rebuild_state", stdout=self.stderr)
            with suppress(SystemExit):  # it reports the same drift
                call_command("rebuild_projections", reason="replay", stdout=self.stderr)
        if report.differing:
            sys.exit(1)


def _line(item: replay.Parting) -> str:
    place = (
        f"first at event {item.suspect} ({item.suspicion})"
        if item.suspect
        else f"between events {item.agrees + 1} and {item.differs}"
    )
    return (
        f"DIFFERS  {item.account_id}: {item.field} in the {item.where} at version {item.differs} is "
        f"{item.stored}, replayed {item.replayed}; {place}"
    )
