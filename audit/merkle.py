"""The Merkle tree over the log, hashed as in RFC 9162 section 2.1. Pure: hashes come from a reader.

A leaf is an event's ``leaf_hash`` (position p is leaf p - 1), an inner node SHA-256(0x01 | left |
right). Complete subtrees of 256 ** level leaves are kept as nodes, so that any root or proof needs
a few hundred hashes however long the log is.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

TILE = 256
"""Children of a kept node."""
TILE_HEIGHT = 8
EMPTY_ROOT = hashlib.sha256().digest()


class Reader(Protocol):
    """Where hashes are kept."""

    def hashes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Kept nodes `start` to `stop` (exclusive) of `level`; level 0 are the leaves."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree from a power of two of hashes of one height."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def _largest_power_below(number: int) -> int:
    """The largest power of two smaller than `number`, which is at least 2."""
    return 1 << ((number - 1).bit_length() - 1)


def subtree(reader: Reader, start: int, stop: int) -> bytes:
    """The hash of the leaves `start` to `stop`; `start` is aligned as in a proof of RFC 9162."""
    count = stop - start
    if count == 0:
        return EMPTY_ROOT
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        level, rest = divmod(height, TILE_HEIGHT)
        at = start >> (level * TILE_HEIGHT)
        return fold(reader.hashes(level, at, at + (1 << rest)))
    middle = start + _largest_power_below(count)
    return node_hash(subtree(reader, start, middle), subtree(reader, middle, stop))


def root(reader: Reader, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return subtree(reader, 0, size)


def inclusion_proof(
    reader: Reader, leaf: int, size: int, known: dict[tuple[int, int], bytes] | None = None
) -> list[bytes]:
    """The path that shows that `leaf` (from 0) is in the tree of `size` (RFC 9162 2.1.3.1).

    Proofs of many leaves may share what they found out: `known`, the hashes of subtrees.

    Raises:
        ValueError: there is no such leaf in it.
    """
    if not 0 <= leaf < size:
        raise ValueError(f"leaf {leaf} is not in a tree of {size}")
    known = {} if known is None else known
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _largest_power_below(stop - start)
        is_left = leaf < middle
        other = (middle, stop) if is_left else (start, middle)
        if other not in known:
            known[other] = subtree(reader, *other)
        path.append(known[other])
        start, stop = (start, middle) if is_left else (middle, stop)
    return path[::-1]


def consistency_proof(reader: Reader, earlier: int, later: int) -> list[bytes]:
    """What shows that the tree of `later` leaves extends that of `earlier` (RFC 9162 2.1.4.1).

    Raises:
        ValueError: not 0 < earlier <= later.
    """
    if not 0 < earlier <= later:
        raise ValueError(f"a tree of {later} does not extend one of {earlier}")
    path: list[bytes] = []
    start, stop, is_whole = 0, later, True
    while earlier != stop:
        middle = start + _largest_power_below(stop - start)
        if earlier <= middle:
            path.append(subtree(reader, middle, stop))
            stop = middle
        else:
            path.append(subtree(reader, start, middle))
            start, is_whole = middle, False
    if not is_whole:
        path.append(subtree(reader, start, stop))
    return path[::-1]


class Growing:
    """The root of a tree that grows leaf by leaf; keeps one hash per bit of its size.

    `peaks`, the heights and hashes of its complete subtrees, are all there is to go on from.
    """

    def __init__(self, size: int = 0, peaks: Sequence[tuple[int, bytes]] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)

    def add(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf hash; returns the nodes to be kept that it completes: (level, index, hash)."""
        self.size += 1
        height, found = 0, leaf
        kept: list[tuple[int, int, bytes]] = []
        while self.peaks and self.peaks[-1][0] == height:
            found = node_hash(self.peaks.pop()[1], found)
            height += 1
            if height % TILE_HEIGHT == 0:
                kept.append((height // TILE_HEIGHT, (self.size >> height) - 1, found))
        self.peaks.append((height, found))
        return kept

    def root(self) -> bytes:
        """The root so far."""
        if not self.peaks:
            return EMPTY_ROOT
        *rest, (_, found) = self.peaks
        for _, left in reversed(rest):
            found = node_hash(left, found)
        return found
