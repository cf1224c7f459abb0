# SPDX-License-Identifier: GPL-2.0-only
"""A new index of given keys, written from its leaves up."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bcached.format.bkey import END_MAX, HEAD_WORDS, WORD_BYTES, pack_keys
from bcached.format.bset import BSET_HEADER, pack_words
from bcached.format.sizes import node_sectors
from bcached.format.superblock import Superblock
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.bset_packing import parts_of_runs
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position, position_of
from bcached.store.patched_device import Patch
from bcached.units import SECTOR_BYTES

LAST: Position = (INODE_MAX, END_MAX)
CHILD_BYTES = (HEAD_WORDS + 1) * WORD_BYTES
FILLED = 3, 4  # of a node's blocks: the kernel splits a full one at the first change


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What a node of a set is like."""

    sectors: int
    block_bytes: int
    set_magic: int

    @classmethod
    def of(cls, superblock: Superblock) -> "NodeSize":
        """Returns that of a set's new nodes."""
        sectors = node_sectors(superblock.bucket_sectors)
        return cls(sectors, superblock.block_bytes, superblock.set_magic)

    @property
    def filled_bytes(self) -> int:
        """How many bytes of keys a new node is given."""
        blocks = max(self.sectors * SECTOR_BYTES // self.block_bytes * FILLED[0] // FILLED[1], 1)
        return blocks * self.block_bytes - BSET_HEADER.size


@dataclass(slots=True)
class NewTree:
    """The tree of keys, which has a node per place; what a node is to hold is packed when it is written."""

    extents: Extents
    size: NodeSize
    patches: list[Patch] = field(default_factory=list)

    def _leaves(self) -> Iterator[tuple[Position, bytes]]:
        """Yields the end of each leaf's range, and its keys."""
        words_max = self.size.filled_bytes // WORD_BYTES
        before: tuple[Position, bytes] | None = None
        for leaf in parts_of_runs(self.extents.runs, words_max):
            if before is not None:
                yield before
            before = leaf
        yield LAST, b"" if before is None else before[1]

    @property
    def node_count(self) -> int:
        """How many nodes there are on all levels."""
        count = level = sum(1 for _ in self._leaves())
        while level > 1:
            level = -(-level // self._fan_out)
            count += level
        return count

    @property
    def _fan_out(self) -> int:
        return max(self.size.filled_bytes // CHILD_BYTES, 2)

    def write(self, places: Iterator[Pointer]) -> tuple[Key, int]:
        """Plan the writes of all nodes, each at one of the places. Returns the root's key, and its level."""
        keys = [self._node(position, raw, next(places)) for position, raw in self._leaves()]
        level = 0
        while len(keys) > 1:
            keys = [self._interior(children, next(places)) for children in self._groups(keys)]
            level += 1
        return keys[0], level

    def _groups(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        for begin in range(0, len(keys), self._fan_out):
            yield keys[begin : begin + self._fan_out]

    def _interior(self, children: Sequence[Key], place: Pointer) -> Key:
        return self._node(position_of(children[-1]), pack_keys(tuple(children)), place)

    def _node(self, position: Position, keys: bytes, place: Pointer) -> Key:
        inode, end = position
        key = Key(inode, end - self.size.sectors, self.size.sectors, False, (place,))
        raw = pack_words(secrets.randbits(64) | 1, keys, key, self.size.set_magic, self.size.block_bytes)
        self.patches.append(Patch(place.device, place.sector * SECTOR_BYTES, raw))
        return key
