"""Build the projections anew beside the live ones, report drift, swap."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ledger.domain.money import format_amount
from ledger.progress import ProgressBar
from projections import rebuild


class Command(BaseCommand):
    """See `projections.rebuild`."""

    help = "Rebuild the projections from the log while traffic goes on; reports what differed."

    def add_arguments(self, parser: CommandParser) -> None:
        """--json for machines."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument("--reason", default="by hand")

    def handle(self, *_: Any, **options: Any) -> None:
        """Build in this process; exit code 1 when the old projections were wrong."""
        bar = ProgressBar("accounts", stream=sys.stderr)
        try:
            generation = rebuild.run_inline(
                reason=options["reason"], requested_by="command line", progress=bar.show
            )
        except rebuild.AlreadyRunningError as error:
            raise CommandError(f"{error}; its progress is in the admin") from error
        bar.close()
        result = {
            "generation": generation.pk,
            "status": generation.status,
            "accounts": generation.accounts_done,
            "covers_position": generation.from_position,
            "drift_total": generation.drift_total,
            "drift": generation.drift,
        }
        if options["json"]:
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write(
                f"generation {generation.pk} is {generation.status}: "
                f"{generation.accounts_done} accounts, {generation.drift_total} differed"
            )
            for item in generation.drift:
                currency = item["currency"]
                self.stdout.write(
                    f"  {item['account_id']}: projected "
                    f"{format_amount(item['projected_balance'], currency)}, true "
                    f"{format_amount(item['true_balance'], currency)} {currency}, "
                    f"parts at version {item['first_version']}"
                )
        if generation.drift_total:
            sys.exit(1)
