"""The Merkle trees' kept nodes and the seals: append-only, like the logs that they are about."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

from ledger.store import LOGS


class Node(models.Model):
    """The hash of a complete subtree of 256 ** level leaves; see `seals.node_key`."""

    key = models.BigIntegerField(primary_key=True)
    hash = models.BinaryField()

    class Meta:
        verbose_name = "tree node"

    def __str__(self) -> str:
        return f"{self.key:x}"


class Seal(models.Model):
    """A signed tree head: the first `size` entries of `log` have this root."""

    log = models.TextField(default="events", choices=[(name, name) for name in LOGS])
    size = models.BigIntegerField()
    root = models.BinaryField()
    note = models.TextField()
    sealed_at = models.DateTimeField()

    class Meta:
        verbose_name = "seal"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["log", "size"], name="audit_seal_log_size"),
        ]

    def __str__(self) -> str:
        return f"seal of {self.size} {self.log}"


class Pass(models.Model):
    """One pass of the continuous checker over everything; disposable, the events are the truth.

    `ends` says per log what was there when it began, `stage` what it is at.
    """

    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    ends = models.JSONField()
    stage = models.TextField(default="events")
    position = models.BigIntegerField(default=0)
    peaks = models.JSONField(default=list)
    before = models.DateTimeField(null=True)
    covered = models.JSONField(default=dict)
    last_account = models.TextField(default="")
    accounts = models.IntegerField(default=0)
    copies = models.IntegerField(default=0)
    seals = models.IntegerField(default=0)
    sums = models.JSONField(default=dict)
    findings = models.JSONField(default=list)
    findings_total = models.IntegerField(default=0)

    class Meta:
        verbose_name = "verification"
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"verification of {self.ends['events']} events"


class Replay(models.Model):
    """One fold of the whole log by today's code, compared with what older code made."""

    status = models.TextField(default="running")
    requested_by = models.TextField()
    reason = models.TextField()
    schema = models.TextField()
    accounts_done = models.IntegerField(default=0)
    accounts_total = models.IntegerField(default=0)
    report = models.JSONField(default=dict)
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"replay {self.pk}"
