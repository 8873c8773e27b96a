"""Registers the package; the verification compares what Redis holds too."""

from collections.abc import Mapping, Sequence

from django.apps import AppConfig

from ledger import history


class ProjectionsConfig(AppConfig):
    """See the package README."""

    name = "projections"

    def ready(self) -> None:
        """Name the copies of accounts, and of events, that are kept here."""
        history.COPIES["Redis"] = _copies
        history.OUTSIDE["Redis"] = _problem_with_redis
        history.OUTSIDE["Kafka"] = _problem_with_kafka


def _copies(account_ids: Sequence[str]) -> Mapping[str, history.Copy]:
    from projections import feeds, redis_store

    try:
        return redis_store.copies(account_ids, feeds.partitions())
    except redis_store.UNAVAILABLE:
        return {}  # /readyz says so


def _problem_with_redis() -> str:
    from projections import redis_store

    try:
        return redis_store.problem_with_log()
    except redis_store.UNAVAILABLE:
        return ""


def _problem_with_kafka() -> str:
    from projections import relay

    return relay.problem_with_topic()
