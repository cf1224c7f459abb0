# SPDX-License-Identifier: GPL-2.0-only
"""The keys accepted for the next entry."""

from collections.abc import Callable


class OpenEntry:
    """At most words_max words of packed keys, in order of acceptance; clock returns seconds."""

    def __init__(self, words_max: int, clock: Callable[[], float]) -> None:
        self.words_max = words_max
        self.granted_words = 0  # for which space in the rings is certain
        self.words = 0
        self.key_count = 0
        self.opened_at: float | None = None  # when it got its first key; None while it has none
        self._clock = clock
        self._packed: list[bytes] = []

    def append(self, packed: bytes, words: int, keys: int) -> bool:
        """Add so many keys of so many words. Returns whether they are the first."""
        is_first = not self.key_count
        if is_first:
            self.opened_at = self._clock()
        self._packed.append(packed)
        self.words += words
        self.granted_words -= words
        self.key_count += keys
        assert 0 < words <= self.words <= self.words_max, "more words are added than were reserved"
        return is_first

    def close(self) -> bytes:
        """Empty it, for the entry after this one. Returns all packed keys."""
        packed = b"".join(self._packed)
        self._packed, self.words, self.key_count, self.opened_at = [], 0, 0, None
        return packed
