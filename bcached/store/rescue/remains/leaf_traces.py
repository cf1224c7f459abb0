# SPDX-License-Identifier: GPL-2.0-only
"""Keys of a leaf that only a journal entry newer than all that were found can have named.

In a journal that is there from entry 1 on, every dirty key of a leaf is in an entry (kernel: but what a
moving collection inserts, which maps sectors that were dirty before). The kernel may write a leaf before the
journal, but at once only if a bset has filled a page. It writes a smaller one half a minute after its first
key, or at a stop, but an entry a tenth of a second after its own: all keys of a smaller one are in an entry.
"""

from collections.abc import Sequence
from functools import cached_property

from bcached.format.bkey import END_MAX, HEAD_WORDS, WORD_BYTES
from bcached.format.bset import BSET_HEADER, Bset
from bcached.format.jset import JournalEntry
from bcached.format.sizes import PAGE_BYTES, node_sectors
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.store.btree.node_reader import NodeFound, read_node
from bcached.store.journal.reader import End, JournalEnd
from bcached.store.membership import MemberFound
from bcached.store.reading.replay import journaled_sectors
from bcached.store.reading.tree_reader import TreeReader

FILLED_BYTES = PAGE_BYTES - 48  # a bset that is longer is written at once (kernel: bch_btree_leaf_dirty)
ROWS_MAX = 4  # of the index, for each key of the journal: else the journal cannot have them all


async def end_by_leaves(
    members: Sequence[MemberFound], known: dict[int, JournalEntry], tree: TreeReader
) -> JournalEnd | None:
    """Returns an end that is suspect by the keys of a leaf; None if there are none, or if it cannot be told.

    Known has all sound entries by their seqs. All leaves are read again, of a set whose journal is young.
    """
    if not known or len(known) != max(known):
        return None
    keys = sum(len(entry.keys) for entry in known.values())
    if sum(len(rows) for rows in tree.rows.chunks()) > ROWS_MAX * keys:
        return None
    journaled = _Journaled(list(known.values()))
    for pointer, where in tree.node_pointers:
        sectors = node_sectors(members[pointer.device].superblock.bucket_sectors)
        key = Key(INODE_MAX, END_MAX - sectors, sectors, False, (pointer,))
        node = await read_node(members, key, 0)
        if node.damage is None and journaled.lacks_last_of(node):
            why = "the last keys written there are dirty, and no entry found has them"
            return JournalEnd(End.SUSPECT, where, why, is_certain=False)
    return None


class _Journaled:
    """What the keys of a whole journal map, and which sectors were ever dirty."""

    def __init__(self, entries: Sequence[JournalEntry]) -> None:
        self._entries = entries
        self._sectors = journaled_sectors(entries)

    def lacks_last_of(self, node: NodeFound) -> bool:
        """Whether it lacks keys of a node's last bset, a small one, and has those of the bsets before."""
        *before, last = [placed.bset for placed in node.bsets] or [Bset(0, ())]
        if not before or _length_of(last) > FILLED_BYTES:
            return False
        lacking = self._lacking(last)
        is_new = any(not self._was_dirty(key) for key in lacking)
        return is_new and not any(self._lacking(bset) for bset in before)

    def _lacking(self, bset: Bset) -> list[Key]:
        return [key for key in bset.keys if key.dirty and key.pointers and not self._sectors.have(key)]

    def _was_dirty(self, key: Key) -> bool:
        found = self._ever_dirty.lookup(key.inode, key.offset, key.end)
        return sum(part.sectors for part in found) == key.sectors

    @cached_property
    def _ever_dirty(self) -> Extents:
        extents = Extents()
        for entry in self._entries:
            for key in entry.keys:
                if key.dirty:
                    extents.insert(
                        Key(key.inode, key.offset, key.sectors, True, (Pointer(0, key.offset, 0),))
                    )
        return extents


def _length_of(bset: Bset) -> int:
    words = sum(HEAD_WORDS + len(key.pointers) for key in bset.keys)
    return BSET_HEADER.size + words * WORD_BYTES
