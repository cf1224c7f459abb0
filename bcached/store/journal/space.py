# SPDX-License-Identifier: GPL-2.0-only
"""Whether keys may be accepted, and when leaves must be written so that more can be.

The limits themselves, and why they suffice, are in limits.py.
"""

from collections.abc import Callable

from bcached.store.journal.limits import JournalLimits
from bcached.store.journal.open_entry import OpenEntry
from bcached.store.journal.relog import NeededKeys
from bcached.store.journal.rings import Rings
from bcached.store.journal.waiters import Waiters

GRANTED_WORDS = 1024  # requested at once, so that not every key has to be checked against the ring


class JournalSpace:
    """The space for keys: in the open entry, and in the rings, where they stay as long as they are needed."""

    def __init__(
        self, limits: JournalLimits, rings: Rings, needed: NeededKeys, open_entry: OpenEntry
    ) -> None:
        self.limits = limits
        self.rings = rings
        self.needed = needed
        # Returns the oldest entry with keys that no written leaf holds. To be set before the first entry
        # after an opening that found keys: that entry would release them.
        self.oldest_needed: Callable[[], int | None] = lambda: None
        self.waiters = Waiters()  # changes that wait for space for their words
        self.is_relogging = False  # between the entries of a relog no key is accepted
        self.is_release_wanted = False  # writing an entry, even an empty one, would free buckets
        self._open = open_entry

    def __repr__(self) -> str:
        words, free = self.needed.words + self._open.words, self.rings.free
        return f"<JournalSpace {words} words needed, {free} of {self.limits.buckets} buckets free>"

    def has(self, words: int) -> bool:
        """Whether keys of so many words may be accepted now."""
        entry = self._open
        if self.is_relogging or entry.words + words > entry.words_max:
            return False
        if words <= entry.granted_words:
            return True
        if self._rings_take(words + GRANTED_WORDS, self.rings.free):
            entry.granted_words = words + GRANTED_WORDS
            return True
        return self._rings_take(words, self.rings.free)

    def fits_open_entry(self, words: int) -> bool:
        """Whether the open entry could hold so many words more."""
        return not self.is_relogging and self._open.words + words <= self._open.words_max

    def count_free(self) -> None:
        """Count the free buckets; what was granted by an older count is not certain any more."""
        self.rings.count_free()
        self._open.granted_words = 0

    def release(self) -> int | None:
        """Forget keys that are in written leaves by now. Returns the oldest entry that is needed."""
        words, oldest = self.needed.words, self.oldest_needed()
        self.needed.release(oldest)
        if self.needed.words < words:
            self.waiters.wake_all()
        return oldest

    def pressure(self, next_seq: int) -> int | None:
        """Returns the seq through which leaves should be written to free a bucket; None if none is short.

        next_seq is the open entry's. Sets is_release_wanted if buckets would be free once an entry says so.
        """
        self.release()
        if not self._is_short(self.rings.free):
            return None
        oldest = self.needed.oldest
        free = self.rings.free_with(next_seq if oldest is None else oldest.seq)
        if free > self.rings.free:
            self.is_release_wanted = True
        if not self._is_short(free):
            return None
        if oldest is None:
            return next_seq if self._open.key_count else None
        return self.rings.newest_with(oldest.seq)

    def _rings_take(self, words: int, free: int) -> bool:
        """Whether so many words more may be needed while so many buckets are free."""
        limits = self.limits
        if self.needed.words + self._open.words + words > limits.entry_words:
            self.release()
        # The shortest key is of two words, a deletion.
        total, merged = self._weight(words, words // 2)
        if total <= limits.entry_words:
            return True
        return free > limits.relog_buckets(total, merged) and limits.may_need(total, merged)

    def _weight(self, words: int = 0, keys: int = 0) -> tuple[int, int]:
        """Returns the words needed if so many are added, and the most that a merge of them could take."""
        words, keys = words + self._open.words, keys + self._open.key_count
        return self.needed.words + words, self.needed.merged_words_max(words, keys)

    def _is_short(self, free: int) -> bool:
        """Whether leaves should be written out if so many buckets are free."""
        waiting = self.waiters.most
        if waiting and not self._rings_take(waiting, free):
            return True
        words, merged = self._weight()
        return 2 * words > self.limits.entry_words and (
            2 * free < self.limits.buckets - 1 or not self.limits.may_need(2 * words, 2 * merged)
        )
