"""Import a CSV file of transactions."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ledger import imports
from ledger.domain.money import parse_amount_or_zero
from ledger.errors import InvalidInputError
from ledger.progress import ProgressBar

SHOWN_MAX = 50


class Command(BaseCommand):
    """See `ledger.imports`."""

    help = "Import transactions from a CSV, XLSX, MT940, CAMT.053 or OFX file; a file imported twice has one effect."

    def add_arguments(self, parser: CommandParser) -> None:
        """The file and how to read it."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--source", default="bank", help="names where the file comes from")
        parser.add_argument("--currency", default="EUR")
        parser.add_argument("--overdraft-limit", default="0", help="of accounts that it opens")
        parser.add_argument("--skip-bad-rows", action="store_true")
        parser.add_argument("--dry-run", action="store_true", help="preview: nothing is stored")
        parser.add_argument("--verify-balance", action="store_true")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_: Any, **given: Any) -> None:
        """Exit code 1 when a row was refused or a recorded balance contradicts its file."""
        try:
            options = imports.Options(
                source=given["source"],
                currency=given["currency"],
                overdraft_limit=parse_amount_or_zero(
                    given["overdraft_limit"], given["currency"], field="overdraft-limit"
                ),
                skip_bad_rows=given["skip_bad_rows"],
            )
            parsed = imports.read(given["file"].read_bytes(), options)
        except OSError as error:
            raise CommandError(f"cannot read {given['file']}: {error.strerror}") from error
        except KeyError as error:
            raise CommandError(f"{error} is not a currency") from error
        except InvalidInputError as error:
            raise CommandError(error.with_field) from error
        if given["dry_run"]:
            result = imports.preview(parsed, options)
        else:
            bar = ProgressBar("rows", stream=sys.stderr)
            result = imports.run(parsed, options, actor="command line", progress=bar.show)
            bar.close()
        found = imports.verify_balances(parsed, options) if given["verify_balance"] else None
        if given["json"]:
            both = {"result": imports.as_json(result), "verification": imports.as_json(found)}
            self.stdout.write(json.dumps(both))
        else:
            self._print(result, found)
        if result.errors_total or (found is not None and found.contradictions):
            sys.exit(1)

    def _print(self, result: imports.Result, found: imports.Verification | None) -> None:
        self.stdout.write(
            f"{result.rows_total} rows: {result.accepted} imported, {result.already_imported} "
            f"already there, {result.errors_total} wrong; {result.accounts_opened} accounts opened"
        )
        for error in result.errors[:SHOWN_MAX]:
            self.stdout.write(f"  line {error.line}, {error.field}: {error.problem}")
        if found is None:
            return
        self.stdout.write(
            f"balances: {found.rows_equal} of {found.rows_checked} equal the recorded ones, "
            f"{found.rows_consistent} follow from the row before, {len(found.contradictions)} "
            f"contradict it, {found.rows_missing} were not imported"
        )
        for item in found.contradictions[:SHOWN_MAX]:
            self.stdout.write(
                f"  line {item.line}, account {item.account}: recorded {item.recorded}, "
                f"follows {item.expected}, off by {item.residual}"
            )
        if len(found.contradictions) > SHOWN_MAX:
            self.stdout.write(f"  and {len(found.contradictions) - SHOWN_MAX} more (--json)")
