"""The numbers of btree nodes: what fits into one, and where one that is too full is cut.

The thresholds are the kernel's: more than four fifths of its blocks is too much for a node that is written
whole, of two halves the lower one gets three fifths of the words, and neighbours are coalesced if they
fill fewer nodes to two thirds.
"""

from dataclasses import dataclass

from bcached.format.bkey import HEAD_WORDS, POINTERS_MAX, WORD_BYTES
from bcached.format.bset import HEADER
from bcached.units import SECTOR_BYTES

CHILD_WORDS = HEAD_WORDS + 1  # a node's key has one pointer
KEY_WORDS_MAX = HEAD_WORDS + POINTERS_MAX


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What new nodes look like; one that was found obeys its key instead."""

    node_sectors: int
    block_bytes: int
    bucket_sectors: int

    @property
    def blocks(self) -> int:
        """Blocks of a new node."""
        return self.blocks_of(self.node_sectors)

    @property
    def block_words(self) -> int:
        """Words of keys that a bset of one block holds."""
        return self.words_in(1)

    def blocks_of(self, sectors: int) -> int:
        """Blocks of a node of that size."""
        return sectors * SECTOR_BYTES // self.block_bytes

    def words_in(self, blocks: int) -> int:
        """Words of keys that a bset of so many blocks holds."""
        return (blocks * self.block_bytes - HEADER.size) // WORD_BYTES

    def blocks_for(self, words: int) -> int:
        """Blocks that a bset with so many words of keys takes."""
        return -(-(HEADER.size + words * WORD_BYTES) // self.block_bytes)

    @property
    def node_words(self) -> int:
        """Words of keys that a node holds if it is written whole."""
        return self.words_in(self.blocks)

    def division(self, words: int, *, tight: bool = False) -> list[int]:
        """Where to cut so many words into nodes: none if they fit in one, else the last word of each but one.

        Cuts move up to the next end of a key, so each node has room for one key more. tight: into as few as
        can be, with no room for later.
        """
        if tight:
            fitting = words <= self.node_words
            return [] if fitting else _even(words, -(-words // (self.node_words - KEY_WORDS_MAX)))
        # Kernel: with a node of one block every rewrite would be a split.
        whole = self.words_in(max(self.blocks * 4 // 5, 1))
        if words <= whole:
            return []
        lower = words * 3 // 5
        if lower + KEY_WORDS_MAX <= whole:
            return [lower]
        # Kernel: never has more than two. Here keys come in while a node is being written.
        return _even(words, -(-words // (self.node_words * 3 // 5)))

    def coalescence(self, words: int, nodes: int) -> list[int] | None:
        """Where to cut the words of neighbours into fewer nodes; None if it is not worth it."""
        count = max(-(-words // (self.node_words * 2 // 3)), 1)
        return _even(words, count) if count < nodes else None


def _even(words: int, count: int) -> list[int]:
    return [words * number // count for number in range(1, count)]
