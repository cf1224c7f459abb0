# SPDX-License-Identifier: GPL-2.0-only
"""Keys of a leaf that only a journal entry newer than all that were found can have named.

In a journal that is there from entry 1 on, every dirty key of a leaf is in an entry (kernel: but what a
moving collection inserts, which maps sectors that were dirty before). The kernel may write a leaf before the
journal, but at once only if a bset has filled a page. It writes a smaller one half a minute after its first
key, or at a stop, but an entry a tenth of a second after its own: all keys of a smaller one are in an entry.
"""

from collections.abc import Sequence
from functools import cached_property

from bcached.errors import BcachedError, FormatError
from bcached.format.bkey import HEAD_WORDS, WORD_BYTES, parse_keys
from bcached.format.bset import BSET_HEADER, Bset
from bcached.format.jset import JournalEntry
from bcached.format.sizes import PAGE_BYTES
from bcached.keys import Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.store.btree.node_reader import NodeFound, read_node
from bcached.store.check.journaled_keys import DirtySectors, keys_in
from bcached.store.journal.reader import End, JournalEnd, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.reading.journal_check import read_journal
from bcached.store.reading.torn_append import MappedSectors

FILLED_BYTES = PAGE_BYTES - 48  # a bset that is longer is written at once (kernel: bch_btree_leaf_dirty)
ROWS_MAX = 4  # of the index, for each key of the journal: else the journal cannot have them all


class LeafTraces:
    """Sees all leaves of a set while they are read, and tells of those whose last bset no entry has."""

    def __init__(self, members: Sequence[MemberFound], journal: JournalFound) -> None:
        self._members = members
        known = journal.sound_by_seq() if journal.end == JournalEnd() else {}
        self._entries: list[JournalEntry] = list(known.values())
        self._is_young = bool(known) and len(known) == max(known)
        self._suspects: list[NodeFound] = []  # without their bsets

    def see(self, node: NodeFound) -> None:
        """Remember a leaf if its last bset, a small one, has dirty keys that are not all journaled.

        Of a damaged one, the last that is sound: each was the last once.
        """
        if not self._is_young or node.level:
            return
        if not self._sectors.have(_appended_to(node)):
            self._suspects.append(NodeFound(node.key, 0, node.low, node.where))

    async def end(self, row_count: int) -> JournalEnd | None:
        """Returns an end that is suspect by the keys of a leaf; None if there are none, or too many rows."""
        if self._suspects and row_count <= ROWS_MAX * len(self._keys):
            for leaf in self._suspects:
                node = await read_node(self._members, leaf.key, 0, leaf.low)
                journaled = _Journaled(keys_in(self._keys, node.low, node.high))
                node.bsets += node.behind
                if journaled.lacks_last_of(node):
                    if await self._has_moved():
                        return None
                    why = "the last keys written there are dirty, and no entry found has them"
                    return JournalEnd(End.SUSPECT, leaf.where, why, is_certain=False)
        return None

    async def _has_moved(self) -> bool:
        """Whether the set is in use: then the entry with the keys may have been written meanwhile."""
        try:
            now = await read_journal(self._members, lambda _: None)
        except BcachedError:
            return False
        return bool(now.entries) and now.newest.seq > max(entry.seq for entry in self._entries)

    @cached_property
    def _keys(self) -> list[Key]:
        return [key for entry in self._entries for key in entry.keys]

    @cached_property
    def _sectors(self) -> DirtySectors:
        return DirtySectors(self._keys)


def _appended_to(node: NodeFound) -> Sequence[Key]:
    """Returns the keys of a leaf's last bset; none if that is the only one, or long."""
    if node.merged is not None:
        is_short = BSET_HEADER.size + len(node.appended) <= FILLED_BYTES
        try:
            return parse_keys(node.appended, node.where) if is_short else ()
        except FormatError:  # not that of a plain leaf
            return ()
    *before, last = [placed.bset for placed in node.bsets] or [Bset(0, ())]
    return last.keys if before and _length_of(last) <= FILLED_BYTES else ()


class _Journaled:
    """What some keys of a whole journal map, and which sectors were ever dirty."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        self._sectors = MappedSectors(keys)

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
        for key in self._keys:
            if key.dirty:
                extents.insert(Key(key.inode, key.offset, key.sectors, True, (Pointer(0, key.offset, 0),)))
        return extents


def _length_of(bset: Bset) -> int:
    words = sum(HEAD_WORDS + len(key.pointers) for key in bset.keys)
    return BSET_HEADER.size + words * WORD_BYTES
