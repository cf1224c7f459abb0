# SPDX-License-Identifier: GPL-2.0-only
"""The keys of one change, packed once for the journal and for the leaves they belong to.

A batch costs a fraction of as many single keys: each field is extracted once, and a key's leaf is found once,
for the question whether it is loaded and for the insertion.
"""

from collections.abc import Iterable, Sequence

from bcached.format.bkey import (
    CHECK_DEVICE,
    DEVICE_SHIFT,
    DIRTY_MASK,
    END_MAX,
    GEN_LIMIT,
    SECTOR_LIMIT,
    SECTOR_SHIFT,
    SIZE_SHIFT,
    head_word,
    pack_key_words,
    pointer_word,
)
from bcached.keys import KEY_SECTORS_MAX, Key
from bcached.state.index.keys.extents import Row, row_of
from bcached.state.index.node import Leaf

ONE_POINTER = head_word(0, 0, False, 1)


class KeyBatch:
    """Keys in order, as rows for the leaves and as words for the journal.

    leaves has the leaf of each key, the bound of one that is not loaded if the key may wait for it, or None
    for a key that crosses the end of a leaf (Tree.place). It is valid until the next await.

    inodes, is_dirty and end_bits sum up the keys, for what is to be checked of each: their volumes, whether
    any is dirty, and all bits of their ends, so that none is higher than these.
    """

    __slots__ = ("end_bits", "inodes", "is_dirty", "keys", "leaves", "rows", "words")

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.rows: list[Row] = []
        self.words: list[int] = []
        self.leaves: list[Leaf | int | None] | None = None
        self.inodes: set[int] = set()
        self.is_dirty = False
        self.end_bits = 0
        self._pack(keys)

    def __repr__(self) -> str:
        return f"<KeyBatch of {len(self.keys)} keys, {len(self.words)} words>"

    def packed(self) -> bytes:
        """Returns the keys as in a journal entry."""
        return pack_key_words(self.words)

    def _pack(self, keys: Iterable[Key]) -> None:
        """Pack keys. Fields are extracted inline where there is one pointer, as in nearly all."""
        rows, words = self.rows, self.words
        volume = -1
        end_bits = size_bits = sector_bits = gen_bits = 0
        for key in keys:
            inode, start, pointers = key.inode, key.offset, key.pointers
            if inode != volume:
                self.inodes.add(inode)
                volume = inode
            if len(pointers) != 1 or (pointer := pointers[0]).device == CHECK_DEVICE:
                self._pack_unusual(key)
                end_bits |= start | key.end
                self.is_dirty |= key.dirty
                continue
            sectors, sector, gen = key.sectors, pointer.sector, pointer.gen
            end = start + sectors
            end_bits |= start | end
            size_bits |= sectors
            sector_bits |= sector
            gen_bits |= gen
            head = ONE_POINTER | sectors << SIZE_SHIFT | inode
            if key.dirty:
                head |= DIRTY_MASK
                self.is_dirty = True
            word = pointer.device << DEVICE_SHIFT | sector << SECTOR_SHIFT | gen
            rows.append((inode, start, end, head, (word,)))
            words += (head, end, word)
        self.end_bits = end_bits
        # A negative field makes all bits of it negative.
        assert 0 <= end_bits <= END_MAX
        assert 0 <= size_bits <= KEY_SECTORS_MAX
        assert 0 <= sector_bits <= SECTOR_LIMIT
        assert 0 <= gen_bits <= GEN_LIMIT

    def _pack_unusual(self, key: Key) -> None:
        """Pack a key of several pointers, of none, or of a placeholder, which the leaves have without it."""
        self.rows.append(row_of(key))
        self.words += (head_word(key.inode, key.sectors, key.dirty, len(key.pointers)), key.end)
        self.words += map(pointer_word, key.pointers)
