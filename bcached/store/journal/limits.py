# SPDX-License-Identifier: GPL-2.0-only
"""How much may be in the journal at once, so that there is always space for an entry without keys.

Entries without keys (a root, prios, the uuid table) cannot wait: writing out the leaves that would free the
ring may take any number of them. So space is reserved not for them but for a relog: writing all needed keys
again at the front of the ring (relog.py), which makes all older entries superfluous:

    Of every member's ring as many buckets are free, always, as it takes to relog all needed keys.

One entry is enough if the keys fit in it; it takes one bucket, and when it is durable all others are free. So
a ring of two buckets never gets stuck while no more than one entry's words are needed. To need more, a ring
must be larger: each relog takes at most a quarter of it. It leaves three times the space it took, so there is
space for the next one, and for two more that a power cut interrupts.
"""

from collections.abc import Iterable

from bcached.format.bkey import WORD_BYTES
from bcached.format.jset import JSET_BYTES, JSET_BYTES_MAX
from bcached.keys import POINTERS_MAX
from bcached.state.buckets.geometry import Geometry

# Needed keys are in memory. This is enough for a block of new keys in each of 2000 leaves at 4 KiB.
NEEDED_WORDS_MAX = (8 << 20) // WORD_BYTES
LONGEST_KEY_WORDS = 2 + POINTERS_MAX


class JournalLimits:
    """The limits for rings of these lengths."""

    def __init__(self, geometry: Geometry, ring_lengths: Iterable[int]) -> None:
        entry_bytes = min(geometry.bucket_bytes, JSET_BYTES_MAX)
        self.entry_words = (entry_bytes - JSET_BYTES) // WORD_BYTES  # most words of keys in one entry
        self.buckets = min(ring_lengths)  # of the shortest ring
        self._block_bytes = geometry.block_bytes
        self._entries_a_bucket = geometry.bucket_bytes // self.entry_bytes(self.entry_words)

    def entry_bytes(self, words: int) -> int:
        """Returns the bytes that an entry with so many words of keys takes on the device."""
        used = JSET_BYTES + words * WORD_BYTES
        return -(-used // self._block_bytes) * self._block_bytes

    def relog_buckets(self, words: int, merged_words: int) -> int:
        """Returns how many free buckets it takes to relog so many words, which merge into merged_words."""
        if words <= self.entry_words:
            return 1
        # An entry with the keys accepted last comes before the parts. All but the last lack less than a key.
        parts = -(-merged_words // (self.entry_words - LONGEST_KEY_WORDS))
        return self.buckets_of(parts + 1)

    def buckets_of(self, entries: int) -> int:
        """Returns how many buckets full entries take, wherever in a bucket the first begins."""
        return 1 - (-entries // self._entries_a_bucket)

    def may_need(self, words: int, merged_words: int) -> bool:
        """Whether so many words may be needed at once in an otherwise empty ring."""
        if words <= self.entry_words:
            return True
        buckets = self.relog_buckets(words, merged_words)
        return words <= NEEDED_WORDS_MAX and 4 * buckets < self.buckets
