"""What the relay and the rebuild remember in PostgreSQL. Disposable, like all projections."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Relay(models.Model):
    """How far the log has been copied to Kafka. A note only: the topic is its own checkpoint."""

    topic = models.TextField(primary_key=True)
    # Kafka's own id of the topic: one that was deleted and made again has another.
    topic_id = models.TextField(default="")
    position = models.BigIntegerField(default=0)
    error = models.TextField(default="")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "relay"

    def __str__(self) -> str:
        return f"{self.topic} at {self.position}"


class Parked(models.Model):
    """An account whose events the relay cannot send, from a position on; the others go on."""

    pk = models.CompositePrimaryKey("topic", "account_id")
    topic = models.TextField()
    account_id = models.UUIDField()
    position = models.BigIntegerField()
    reason = models.TextField()
    is_retry_wanted = models.BooleanField(default=False)
    since = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "projections_parked"

    def __str__(self) -> str:
        return f"{self.account_id} from {self.position}"


class SavedFilter(models.Model):
    """A filter of the list of accounts that a user keeps under a name."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    name = models.TextField()
    query = models.TextField()

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "name"], name="projections_filter_name"),
            models.UniqueConstraint(fields=["user", "query"], name="projections_filter_query"),
        ]

    def __str__(self) -> str:
        return self.name


class Generation(models.Model):
    """One complete build of the projections in Redis."""

    status = models.TextField(default="building")
    schema = models.TextField()
    reason = models.TextField()
    requested_by = models.TextField()
    from_position = models.BigIntegerField(default=0)
    shards_total = models.IntegerField()
    shards_done = models.JSONField(default=list)
    accounts_total = models.IntegerField(default=0)
    accounts_done = models.IntegerField(default=0)
    drift_total = models.IntegerField(default=0)
    drift = models.JSONField(default=list)
    started_at = models.DateTimeField(auto_now_add=True)
    heartbeat_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "projection generation"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["status"],
                condition=models.Q(status="building"),
                name="projections_one_building",
            ),
            models.UniqueConstraint(
                fields=["status"],
                condition=models.Q(status="live"),
                name="projections_one_live",
            ),
        ]

    def __str__(self) -> str:
        return f"generation {self.pk} ({self.status})"


class Webhook(models.Model):
    """Where events are posted to. `position` is that of the last event that was taken."""

    url = models.TextField()
    types = models.JSONField(default=list)
    secret = models.TextField()
    is_on = models.BooleanField(default=True)
    position = models.BigIntegerField()
    failures = models.IntegerField(default=0)
    failing_since = models.DateTimeField(null=True)
    problem = models.TextField(default="")
    due_at = models.DateTimeField(db_default=Now())
    made_by = models.TextField()
    made_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.url


class Delivery(models.Model):
    """One try to deliver an event; the latest are kept."""

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE)
    position = models.BigIntegerField()
    status = models.IntegerField(null=True)
    problem = models.TextField()
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"event {self.position} to {self.webhook_id}"
