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
from bcached.keys import Key
from bcached.state.index.keys.extents import Row, row_of
from bcached.state.index.node import Leaf

ONE_POINTER = head_word(0, 0, False, 1)


class KeyBatch:
    """Keys in order, as rows for the leaves and as words for the journal.

    leaves has the leaf of each key, the bound of one that is not loaded if the key may wait for it, or None
    for a key that crosses the end of a leaf (Tree.place). It is valid until the next await.
    """

    __slots__ = ("keys", "leaves", "rows", "words")

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.rows: list[Row] = []
        self.words: list[int] = []
        self.leaves: list[Leaf | int | None] | None = None
        self._pack(keys)

    def __repr__(self) -> str:
        return f"<KeyBatch of {len(self.keys)} keys, {len(self.words)} words>"

    def packed(self) -> bytes:
        """Returns the keys as in a journal entry."""
        return pack_key_words(self.words)

    def _pack(self, keys: Iterable[Key]) -> None:
        """Pack keys. Fields are extracted inline where there is one pointer, as in nearly all."""
        rows, words = self.rows, self.words
        for key in keys:
            pointers = key.pointers
            if len(pointers) != 1 or (pointer := pointers[0]).device == CHECK_DEVICE:
                self._pack_unusual(key)
                continue
            inode, start, sectors, sector, gen = (
                key.inode,
                key.offset,
                key.sectors,
                pointer.sector,
                pointer.gen,
            )
            end = start + sectors
            assert 0 <= start <= end <= END_MAX
            assert 0 <= sector <= SECTOR_LIMIT
            assert 0 <= gen <= GEN_LIMIT
            head = ONE_POINTER | sectors << SIZE_SHIFT | inode
            if key.dirty:
                head |= DIRTY_MASK
            word = pointer.device << DEVICE_SHIFT | sector << SECTOR_SHIFT | gen
            rows.append((inode, start, end, head, (word,)))
            words += (head, end, word)

    def _pack_unusual(self, key: Key) -> None:
        """Pack a key of several pointers, of none, or of a placeholder, which the leaves have without it."""
        self.rows.append(row_of(key))
        self.words += (head_word(key.inode, key.sectors, key.dirty, len(key.pointers)), key.end)
        self.words += map(pointer_word, key.pointers)
