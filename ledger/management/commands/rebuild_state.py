"""Make heads and snapshots anew from the events, with the logic of today's code."""

import sys
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ledger import history, store
from ledger.codec import STATE_SCHEMA
from ledger.domain.state import Account, evolve
from ledger.progress import ProgressBar

ACCOUNTS_PER_READ = 200


class Command(BaseCommand):
    """Commands go on meanwhile: a head that moved is left alone, it is new already."""

    help = "Fold every account anew and replace its head and snapshots."

    def add_arguments(self, parser: CommandParser) -> None:
        """No options."""

    def handle(self, *_: Any, **__: Any) -> None:
        """Account by account, in bounded memory."""
        bar = ProgressBar("accounts", stream=sys.stderr)
        missing = store.accounts_without_head()
        total, done, replaced = store.count_accounts() + len(missing), 0, 0
        for ids in self._batches(missing):
            replaced += self._rebuild(ids)
            done += len(ids)
            bar.show(done, total)
        bar.close()
        self.stdout.write(f"{done} accounts folded, {replaced} heads replaced")

    def _batches(self, missing: list[str]) -> Iterator[list[str]]:
        yield from store.all_accounts(ACCOUNTS_PER_READ)
        for start in range(0, len(missing), ACCOUNTS_PER_READ):
            yield missing[start : start + ACCOUNTS_PER_READ]

    def _rebuild(self, ids: list[str]) -> int:
        accounts: dict[str, Account] = {}
        snapshots: list[Account] = []
        for recorded in store.read_streams(ids):
            before = accounts.get(recorded.account_id) or Account(account_id=recorded.account_id)
            account = evolve(before, recorded.event)
            accounts[recorded.account_id] = account
            if account.version % history.SNAPSHOT_EVERY == 0:
                snapshots.append(account)
        return store.rebuild_state(
            heads=[_row(account) for account in accounts.values()],
            snapshots=[_row(account) for account in snapshots],
        )


def _row(account: Account) -> dict[str, Any]:
    return {
        "account_id": account.account_id,
        "version": account.version,
        "state": account,
        "state_schema": STATE_SCHEMA,
    }
