"""One member's journal buckets as a ring: where the next entry goes, and what may be overwritten.

Rules: a bucket is used again only when a *durable* entry says that none of its entries is needed any more
(the kernel goes by the entry in memory); and after an opening the first entry begins a new bucket, since
nobody knows what a torn write left behind the last one.
"""

from collections.abc import Sequence

from bcached.state.geometry import Geometry


class JournalRing:
    """Positions in one member's journal; newest_seqs tells the newest entry each bucket holds, 0 for none."""

    def __init__(self, geometry: Geometry, buckets: Sequence[int]) -> None:
        assert buckets
        self.buckets = tuple(buckets)
        self.newest_seqs = [0] * len(buckets)
        self.index = 0
        self._bucket_bytes = geometry.bucket_bytes
        self._block_bytes = geometry.block_bytes
        # The current bucket counts as full at first: the kernel, too, advances before its first entry.
        self._next_byte = self._bucket_bytes
        self._behind_newest = self._bucket_bytes

    def resume(self, index: int, behind_byte: int) -> None:
        """Go on in the bucket after the one that holds the newest entry; behind the entry if none is free."""
        self.index = index
        self._next_byte = self._bucket_bytes
        self._behind_newest = behind_byte

    def free_buckets(self, durable_last_seq: int) -> int:
        """How many buckets could be begun, one after the other, without losing an entry that is needed."""
        count = 0
        while count < len(self.buckets) - 1 and self._is_free(self.index + 1 + count, durable_last_seq):
            count += 1
        return count

    def place(self, size_bytes: int, seq: int, durable_last_seq: int) -> int | None:
        """The byte of the device for the next entry; None if the ring is full."""
        assert size_bytes % self._block_bytes == 0
        if self._next_byte + size_bytes > self._bucket_bytes:
            if self._is_free(self.index + 1, durable_last_seq):
                self.index = (self.index + 1) % len(self.buckets)
                self._next_byte = 0
            elif self._behind_newest + size_bytes <= self._bucket_bytes:
                self._next_byte = self._behind_newest
            else:
                return None
            self._behind_newest = self._bucket_bytes
        byte = self.buckets[self.index] * self._bucket_bytes + self._next_byte
        self._next_byte += size_bytes
        self.newest_seqs[self.index] = seq
        return byte

    def _is_free(self, index: int, durable_last_seq: int) -> bool:
        return self.newest_seqs[index % len(self.newest_seqs)] < max(durable_last_seq, 1)
