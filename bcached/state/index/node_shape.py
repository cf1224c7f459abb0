# SPDX-License-Identifier: GPL-2.0-only
"""The sizes of btree nodes: what fits into one, and where one that is too full is split.

The thresholds are the kernel's: a node that is written whole is split if it takes more than four fifths of
its blocks, of two halves the lower one gets three fifths of the words, and neighbours are coalesced if
they fit in fewer nodes filled to two thirds.
"""

from dataclasses import dataclass

from bcached.format.bkey import HEAD_WORDS, WORD_BYTES
from bcached.format.bset import BSET_HEADER
from bcached.keys import POINTERS_MAX
from bcached.units import SECTOR_BYTES

CHILD_WORDS = HEAD_WORDS + 1  # a node's key has one pointer
KEY_WORDS_MAX = HEAD_WORDS + POINTERS_MAX


@dataclass(frozen=True, slots=True)
class NodeShape:
    """The size of new nodes; that of an existing node follows from its key."""

    node_sectors: int
    block_bytes: int
    bucket_sectors: int

    @property
    def blocks(self) -> int:
        """Blocks of a new node."""
        return self.blocks_of(self.node_sectors)

    @property
    def block_words(self) -> int:
        """Words of keys that fit in a bset of one block."""
        return self.words_in(1)

    def blocks_of(self, sectors: int) -> int:
        """Blocks of a node of `sectors`."""
        return sectors * SECTOR_BYTES // self.block_bytes

    def words_in(self, blocks: int) -> int:
        """Words of keys that fit in a bset of `blocks`."""
        return (blocks * self.block_bytes - BSET_HEADER.size) // WORD_BYTES

    def blocks_for(self, words: int) -> int:
        """Blocks that a bset with `words` of keys takes."""
        return -(-(BSET_HEADER.size + words * WORD_BYTES) // self.block_bytes)

    @property
    def node_words(self) -> int:
        """Words of keys that fit in a node that is written whole."""
        return self.words_in(self.blocks)

    def division(self, words: int, *, tight: bool = False) -> list[int]:
        """Where to cut `words` into nodes: none if they fit in one, else the last word of each but the last.

        Cuts move up to the next end of a key, so each node has space for another key. tight: into as few
        nodes as possible, without space for later keys.
        """
        if tight:
            fitting = words <= self.node_words
            return [] if fitting else _even(words, -(-words // (self.node_words - KEY_WORDS_MAX)))
        # Kernel: no minimum of one block, so each rewrite of a node of one block would split it.
        whole = self.words_in(max(self.blocks * 4 // 5, 1))
        if words <= whole:
            return []
        lower = words * 3 // 5
        if lower + KEY_WORDS_MAX <= whole:
            return [lower]
        # Kernel: never has more than two. Here keys are inserted while a node is being written.
        return _even(words, -(-words // (self.node_words * 3 // 5)))

    def coalescence(self, words: int, nodes: int) -> list[int] | None:
        """Where to cut the words of neighbours into fewer nodes; None if there would not be fewer."""
        count = max(-(-words // (self.node_words * 2 // 3)), 1)
        return _even(words, count) if count < nodes else None


def _even(words: int, count: int) -> list[int]:
    return [words * number // count for number in range(1, count)]
