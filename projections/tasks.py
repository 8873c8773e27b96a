"""Celery wrappers: one call each. No task carries business meaning; losing one is harmless."""

import logging
from typing import Any

from celery import shared_task

from projections import rebuild, redis_store, relay, webhooks

log = logging.getLogger(__name__)

RELAY_BUDGET_SECONDS = 60.0
"""A busy relay gives its worker back after this long; the next wake-up goes on."""


@shared_task(name="projections.relay")
def relay_events(**_: Any) -> int:
    """Copy the log to Kafka."""
    return relay.run(budget_seconds=RELAY_BUDGET_SECONDS)


@shared_task(name="projections.publish_seal")
def publish_seal(*, log_name: str, size: int, note: str, **_: Any) -> None:
    """Put a seal on its topic, at least once; the next seal covers one that Kafka missed."""
    relay.publish_seal(log_name=log_name, size=size, note=note)


@shared_task(name="projections.watch")
def watch(**_: Any) -> None:
    """See that a live generation exists and that builds go on."""
    try:
        rebuild.ensure(reason="no generation in Redis")
    except redis_store.UNAVAILABLE as error:
        log.warning("Redis is away: %s", error)


@shared_task(name="projections.build_shard")
def build_shard(*, generation_id: int, shard: int, **_: Any) -> None:
    """Build one shard of a generation."""
    rebuild.build_shard(generation_id, shard)


@shared_task(name="projections.webhooks")
def deliver_webhooks(**_: Any) -> int:
    """Post new events to whoever wants them."""
    return webhooks.run()
