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
from bcached.state.index.bset_packing import PackedKeys
from bcached.state.index.extents import Extents
from bcached.state.index.interior_keys import Position, position_of
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
        return cls(sectors, superblock.block_sectors * SECTOR_BYTES, superblock.set_magic)

    @property
    def filled_bytes(self) -> int:
        """How many bytes of keys a new node is given."""
        blocks = max(self.sectors * SECTOR_BYTES // self.block_bytes * FILLED[0] // FILLED[1], 1)
        return blocks * self.block_bytes - BSET_HEADER.size


@dataclass(slots=True)
class NewTree:
    """The contents of the nodes, level by level; each gets its place when it is known how many there are."""

    size: NodeSize
    leaves: list[tuple[Position, bytes]] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)

    @classmethod
    def of(cls, extents: Extents, size: NodeSize) -> "NewTree":
        """Returns the tree of these keys."""
        tree = cls(size)
        packed = PackedKeys([extents]) if len(extents) else None
        if packed is not None:
            parts = list(packed.parts(size.filled_bytes // WORD_BYTES))
            tree.leaves = [(packed.end_of(end - 1), packed.cut(begin, end)) for begin, end in parts]
        if not tree.leaves:
            tree.leaves = [(LAST, b"")]
        tree.leaves[-1] = (LAST, tree.leaves[-1][1])
        return tree

    @property
    def node_count(self) -> int:
        """How many nodes there are on all levels."""
        count = level = len(self.leaves)
        while level > 1:
            level = -(-level // self._fan_out)
            count += level
        return count

    @property
    def _fan_out(self) -> int:
        return max(self.size.filled_bytes // CHILD_BYTES, 2)

    def write(self, places: Iterator[Pointer]) -> tuple[Key, int]:
        """Plan the writes of all nodes, each at one of the places. Returns the root's key, and its level."""
        keys = [self._node(position, raw, next(places)) for position, raw in self.leaves]
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
