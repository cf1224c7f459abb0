# SPDX-License-Identifier: GPL-2.0-only
"""Which journal entry the kernel takes for the newest (kernel: bch_journal_read, journal_read_bucket)."""

from collections.abc import Sequence

from bcached.format.jset import JournalEntry

GOLDEN_RATIO = 2_654_435_769  # spreads the buckets that are tried first


def newest_by_bisection(buckets: Sequence[Sequence[JournalEntry]]) -> int:
    """Returns the seq of the entry that the kernel takes for the newest; there must be an entry.

    It can stop before an empty bucket, which was discarded, though there are newer entries behind it.
    """
    reading = _Reading(buckets)
    count = len(buckets)
    # 1. It tries buckets by golden ratio hash until one has entries.
    low = next(index for index in _in_order_of_trial(count) if reading.read(index))
    # 2. It bisects from there up to the next one tried.
    high = min((index for index in reading.tried if index > low), default=count)
    middle = low
    while low + 1 < high:
        middle, newest = (low + high) // 2, reading.newest
        reading.read(middle)
        low, high = (middle, high) if reading.newest != newest else (low, middle)
    # 3. It goes back from where that ended as long as there is something new.
    for index in [*range(middle - 1, -1, -1), *range(count - 1, middle, -1)]:
        if index not in reading.tried and not reading.read(index):
            break
    return reading.newest


def _in_order_of_trial(count: int) -> dict[int, None]:
    """Returns the buckets in the order in which they are tried: by hash until one repeats, then all."""
    hashed = [number * GOLDEN_RATIO % (1 << 32) % count for number in range(count)]
    repeated = next((number for number in range(count) if hashed[number] in hashed[:number]), count)
    return dict.fromkeys([*hashed[:repeated], *range(count)])


class _Reading:
    """The entries read so far."""

    def __init__(self, buckets: Sequence[Sequence[JournalEntry]]) -> None:
        self.tried: list[int] = []  # buckets, in the order in which they were read
        self._buckets = buckets
        self._last_seqs: dict[int, int] = {}  # by the seqs of the entries that are kept

    @property
    def newest(self) -> int:
        """The newest entry."""
        return max(self._last_seqs)

    def read(self, index: int) -> bool:
        """Read a bucket. Returns whether it has an entry that is new."""
        self.tried.append(index)
        is_new = [self._add(entry) for entry in self._buckets[index]]  # all of them, new or not
        return any(is_new)

    def _add(self, entry: JournalEntry) -> bool:
        """Keep an entry that is new and that no kept one has superseded; drop those that it supersedes."""
        kept = self._last_seqs
        for seq in [seq for seq in kept if seq < entry.last_seq]:
            del kept[seq]
        is_old = any(seq > entry.seq and last_seq > entry.seq for seq, last_seq in kept.items())
        if entry.seq in kept or is_old:
            return False
        kept[entry.seq] = entry.last_seq
        return True
