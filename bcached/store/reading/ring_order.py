# SPDX-License-Identifier: GPL-2.0-only
"""Whether an entry is where the entries next to it in sequence say: one is right behind the other.

Or it begins another bucket: the one before filled its own, or was the last of a life. Else it was written to
a wrong place, maybe over a newer one. That shows also if the original cannot be read any more.
"""

from collections.abc import Sequence

from bcached.format.jset import PlacedEntry
from bcached.store.journal.reader import BucketFound

Placed = tuple[BucketFound, PlacedEntry]


def may_follow(one: Placed, buckets: Sequence[BucketFound], block_bytes: int) -> bool:
    """Whether the entry before one in sequence is not there, or where it belongs."""
    before = placed_of(one[1].entry.seq - 1, buckets)
    return not before or any(_follows(other, one, block_bytes) for other in before)


def may_precede(one: Placed, buckets: Sequence[BucketFound], block_bytes: int) -> bool:
    """Whether the entry behind one in sequence is not there, or where it belongs."""
    behind = placed_of(one[1].entry.seq + 1, buckets)
    return not behind or any(_follows(one, other, block_bytes) for other in behind)


def placed_of(seq: int, buckets: Sequence[BucketFound]) -> list[Placed]:
    """Returns where sound entries with a seq are."""
    return [(bucket, placed) for bucket in buckets for placed in bucket.sound if placed.entry.seq == seq]


def _follows(one: Placed, other: Placed, block_bytes: int) -> bool:
    (bucket, placed), (others_bucket, other_placed) = one, other
    if bucket.index == others_bucket.index:
        return other_placed.offset_bytes == placed.offset_bytes + placed.blocks * block_bytes
    return other_placed.offset_bytes == 0
