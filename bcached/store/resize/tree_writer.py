# SPDX-License-Identifier: GPL-2.0-only
"""A whole index written to empty buckets: leaves from left to right, and the levels above as they fill."""

import secrets
from collections.abc import Callable

from bcached.format.bkey import END_MAX, key_words, pack_keys
from bcached.format.bset import pack_words
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.node_shape import CHILD_WORDS, KEY_WORDS_MAX, NodeShape
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES

Position = tuple[int, int]
LAST: Position = (INODE_MAX, END_MAX)


def words_wanted(shape: NodeShape) -> int:
    """Returns how many words of keys a node gets: two thirds, so that there is space for later keys."""
    return shape.node_words * 2 // 3


def nodes_needed(shape: NodeShape, words: int) -> int:
    """Returns how many nodes keys of so many words take at most."""
    total, wanted = 0, words_wanted(shape)
    while True:
        nodes = -(-words // (wanted - KEY_WORDS_MAX)) + (total == 0)
        total += nodes
        if nodes <= 1:
            return total
        words = nodes * CHILD_WORDS


class _OpenNode:
    """The keys of a node that is not written yet."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.words = 0

    def add(self, key: Key) -> None:
        self.keys.append(key)
        self.words += key_words(key)


class TreeWriter:
    """Writes one tree to a member; take returns an empty bucket and its gen."""

    def __init__(self, member: MemberFound, shape: NodeShape, take: Callable[[], tuple[int, int]]) -> None:
        self.nodes = 0  # that were written
        self._member = member
        self._geometry = geometry_of(member.superblock)
        self._shape = shape
        self._take = take
        self._open = [_OpenNode()]  # by level, leaves first

    async def add(self, key: Key) -> None:
        """Add an extent, behind all before it."""
        await self._add(0, key)

    async def finish(self) -> tuple[Key, int]:
        """Write what is left. Returns the root's key and its level."""
        level = 0
        while True:
            key = await self._write(self._open[level], LAST)
            level += 1
            if level == len(self._open):
                return key, level - 1
            await self._add(level, key)

    async def _add(self, level: int, key: Key) -> None:
        if level == len(self._open):
            self._open.append(_OpenNode())
        node = self._open[level]
        if node.words + key_words(key) > words_wanted(self._shape):
            last = node.keys[-1]
            written = await self._write(node, (last.inode, last.end))
            self._open[level] = node = _OpenNode()
            await self._add(level + 1, written)
        node.add(key)

    async def _write(self, node: _OpenNode, position: Position) -> Key:
        """Write a node whose keys end at a position. Returns its key."""
        bucket, gen = self._take()
        inode, end = position
        sectors = self._shape.node_sectors
        pointer = Pointer(self._member.superblock.member, self._geometry.sector_of(bucket), gen)
        key = Key(inode, end - sectors, sectors, False, (pointer,))
        seq = secrets.randbits(64) | 1
        magic, block_bytes = self._member.superblock.set_magic, self._geometry.block_bytes
        raw = pack_words(seq, pack_keys(tuple(node.keys)), key, magic, block_bytes)
        assert len(raw) <= sectors * SECTOR_BYTES
        await self._member.block_device.write(self._geometry.byte_of(bucket), raw)
        self.nodes += 1
        return key
