"""Registers the package; the verification compares what Redis holds too."""

from collections.abc import Mapping, Sequence

from django.apps import AppConfig

from ledger import history


class ProjectionsConfig(AppConfig):
    """See the package README."""

    name = "projections"

    def ready(self) -> None:
        """Name the copies of accounts that are kept here."""
        history.COPIES["Redis"] = _copies


def _copies(account_ids: Sequence[str]) -> Mapping[str, history.Copy]:
    from projections import feeds, redis_store

    try:
        return redis_store.copies(account_ids, feeds.partitions())
    except redis_store.UNAVAILABLE:
        return {}  # /readyz says so
