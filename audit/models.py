"""The Merkle tree's kept nodes and the seals: append-only, like the log that they are about."""

from typing import ClassVar

from django.db import models


class Node(models.Model):
    """The hash of a complete subtree of 256 ** level events, `index` from 0."""

    key = models.BigIntegerField(primary_key=True)  # level * 2**48 + index
    level = models.SmallIntegerField()
    index = models.BigIntegerField()
    hash = models.BinaryField()

    class Meta:
        verbose_name = "tree node"

    def __str__(self) -> str:
        return f"level {self.level}, {self.index}"


class Seal(models.Model):
    """A signed tree head: the first `size` events have this root."""

    size = models.BigIntegerField(primary_key=True)
    root = models.BinaryField()
    note = models.TextField()
    sealed_at = models.DateTimeField()

    class Meta:
        verbose_name = "seal"
        ordering: ClassVar = ["-size"]

    def __str__(self) -> str:
        return f"seal of {self.size} events"


class Pass(models.Model):
    """One pass of the continuous checker over everything; disposable, the events are the truth."""

    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    end = models.BigIntegerField()
    position = models.BigIntegerField(default=0)
    peaks = models.JSONField(default=list)
    before = models.DateTimeField(null=True)
    log_done = models.BooleanField(default=False)
    last_account = models.TextField(default="")
    accounts = models.IntegerField(default=0)
    seals = models.IntegerField(default=0)
    findings = models.JSONField(default=list)
    findings_total = models.IntegerField(default=0)

    class Meta:
        verbose_name = "verification"
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"verification of {self.end} events"
