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
