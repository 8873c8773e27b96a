"""Wrap the keys of personal data with the current key of the environment."""

from typing import Any

from django.core.management.base import BaseCommand

from ledger import privacy


class Command(BaseCommand):
    """Put the new key first in LEDGER_PRIVACY_KEYS, run this, then take the old one away."""

    help = "Wrap every account's key with the first of LEDGER_PRIVACY_KEYS, and index names anew."

    def handle(self, *_: Any, **__: Any) -> None:
        """Account by account; safe to run again."""
        done = privacy.rewrap()
        self.stdout.write(f"{done} keys are wrapped with the current key")
