# SPDX-License-Identifier: GPL-2.0-only
"""The rings of all members: they hold the same entries, so the one with the least space decides."""

from collections.abc import Sequence

from bcached.store.journal.ring import JournalRing, Remaining


class Rings:
    """Each member's ring, in the order of the devices; durable_last_seq says what may be overwritten."""

    def __init__(self, rings: Sequence[JournalRing], durable_last_seq: int) -> None:
        assert rings
        self.each = tuple(rings)
        self.durable_last_seq = durable_last_seq
        self.free = 0  # buckets that could be begun, by the last count, in the ring with the fewest
        self.count_free()

    def count_free(self) -> None:
        """Count the free buckets."""
        self.free = self.free_with(self.durable_last_seq)

    def free_with(self, last_seq: int) -> int:
        """Returns the buckets that could be begun if an entry with this last_seq were durable."""
        return min(ring.free_buckets(last_seq) for ring in self.each)

    def newest_with(self, seq: int) -> int:
        """Returns the entry through which leaves must be written to free an entry's bucket in every ring."""
        return max(ring.newest_with(seq) for ring in self.each)

    def remaining_after(self, size_bytes: int, last_seq: int) -> list[Remaining | None]:
        """Returns what each ring has left behind an entry of so many bytes; None for a ring that is full."""
        return [ring.remaining_after(size_bytes, self.durable_last_seq, last_seq) for ring in self.each]

    def advance(self, size_bytes: int, seq: int) -> list[int | None]:
        """Move behind the next entry. Returns its byte offset on each device; None where the ring is full."""
        return [ring.advance(size_bytes, seq, self.durable_last_seq) for ring in self.each]

    def furthest_behind_first(self) -> list[int]:
        """Returns the members, that which lacks the most entries first; none if all have the same."""
        reached = [ring.newest_seq for ring in self.each]
        return sorted(range(len(reached)), key=reached.__getitem__) if len(set(reached)) > 1 else []
