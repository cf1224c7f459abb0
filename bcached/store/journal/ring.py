# SPDX-License-Identifier: GPL-2.0-only
"""One member's journal buckets as a ring: where the next entry goes, and what may be overwritten.

Rules: a bucket is used again only when a *durable* entry says that none of its entries is needed any more
(Kernel: uses the entry in memory); and after an opening the first entry begins a new bucket, since a torn
write may have left anything behind the last one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bcached.state.buckets.geometry import Geometry


class Remaining(NamedTuple):
    """What a ring has left behind an entry: buckets that could be begun, and bytes of the entry's own."""

    buckets: int
    bytes: int


class JournalRing:
    """Positions in one member's journal."""

    def __init__(self, geometry: Geometry, buckets: Sequence[int]) -> None:
        assert buckets
        self.buckets = tuple(buckets)
        self.newest_seqs = [0] * len(buckets)  # of the newest entry in each bucket; 0 for none
        self.index = 0  # of the current bucket
        self._bucket_bytes = geometry.bucket_bytes
        self._block_bytes = geometry.block_bytes
        # The current bucket counts as full at first: the kernel, too, advances before its first entry.
        self._next_byte = self._bucket_bytes
        self._behind_newest = self._bucket_bytes
        self._counted = (0, 0, 0)  # bucket, last_seq and free buckets behind it: a count that only grows

    def __repr__(self) -> str:
        return f"<JournalRing bucket {self.index} of {len(self.buckets)}, newest seqs {self.newest_seqs}>"

    @property
    def newest_seq(self) -> int:
        """The newest entry in any bucket; 0 for none."""
        return max(self.newest_seqs)

    def resume(self, newest_seqs: Sequence[int], index: int, behind_byte: int) -> None:
        """Continue in the bucket after the newest entry's; behind that entry if no bucket is free."""
        assert len(newest_seqs) == len(self.buckets)
        self.newest_seqs = list(newest_seqs)
        self.index = index
        self._next_byte = self._bucket_bytes
        self._behind_newest = behind_byte
        self._counted = (index, 0, 0)

    def free_buckets(self, durable_last_seq: int) -> int:
        """Returns how many buckets in sequence could be begun without losing an entry that is needed."""
        count = self._free_behind(self.index, durable_last_seq)
        self._counted = (self.index, durable_last_seq, count)
        return count

    def remaining_after(self, size_bytes: int, durable_last_seq: int, last_seq: int) -> Remaining | None:
        """Returns the space left once the next entry, with this last_seq, is durable; None if it is full."""
        found = self._find(size_bytes, durable_last_seq)
        if found is None:
            return None
        index, byte = found
        return Remaining(self._free_behind(index, last_seq), self._bucket_bytes - byte - size_bytes)

    def advance(self, size_bytes: int, seq: int, durable_last_seq: int) -> int | None:
        """Move behind the next entry. Returns its byte offset on the device; None if the ring is full."""
        found = self._find(size_bytes, durable_last_seq)
        if found is None:
            return None
        index, byte = found
        if index != self.index:
            _, last_seq, count = self._counted
            self._counted = (index, last_seq, max(count - 1, 0))
        self.index = index
        self._behind_newest = self._bucket_bytes
        self._next_byte = byte + size_bytes
        self.newest_seqs[self.index] = seq
        return self.buckets[self.index] * self._bucket_bytes + byte

    def newest_with(self, seq: int) -> int:
        """Returns the newest entry in the bucket that holds an entry; seq itself if no bucket does."""
        return min((newest for newest in self.newest_seqs if newest >= seq), default=seq)

    def _find(self, size_bytes: int, durable_last_seq: int) -> tuple[int, int] | None:
        """Returns the bucket's index and the byte in it where the next entry goes; None if the ring is full.

        1. The current bucket has space. 2. The next is free. 3. After `resume`: behind the newest entry.
        """
        assert size_bytes % self._block_bytes == 0
        # 1.
        if self._next_byte + size_bytes <= self._bucket_bytes:
            return self.index, self._next_byte
        # 2.
        if self._is_free(self.index + 1, durable_last_seq):
            return (self.index + 1) % len(self.buckets), 0
        # 3.
        if self._behind_newest + size_bytes <= self._bucket_bytes:
            return self.index, self._behind_newest
        return None

    def _free_behind(self, index: int, last_seq: int) -> int:
        """Returns how many buckets behind one are free; counts on from the known ones, which stay free."""
        known_index, known_seq, count = self._counted
        ahead = (index - known_index) % len(self.buckets)
        count = max(count - ahead, 0) if last_seq >= known_seq else 0
        while count < len(self.buckets) - 1 and self._is_free(index + 1 + count, last_seq):
            count += 1
        return count

    def _is_free(self, index: int, durable_last_seq: int) -> bool:
        return self.newest_seqs[index % len(self.newest_seqs)] < max(durable_last_seq, 1)
