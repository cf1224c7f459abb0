# SPDX-License-Identifier: GPL-2.0-only
"""One node of the btree, read from a device that may be damaged: its bsets as far as they are sound.

A node is appended to in place. An interrupted append leaves a last bset with the node's seq and a wrong
checksum; it is dropped, and the keys of a leaf's come from the journal.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bcached.errors import BadChecksum, BcachedError, DeviceError, FormatError
from bcached.format.bset import (
    PlacedBset,
    bsets_behind,
    claimed_bytes,
    claimed_keys,
    is_last_bset,
    read_bsets,
)
from bcached.format.damage.hidden_keys import keys_behind
from bcached.keys import Key
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import START, Position, position_of
from bcached.store.membership import MemberFound
from bcached.store.read_around import ReadAround
from bcached.units import SECTOR_BYTES


@dataclass(slots=True)
class NodeFound:
    """A node of the tree: its key, its range, and what was found in its bucket."""

    key: Key
    level: int
    low: Position  # its keys begin here or behind
    where: str = ""
    bsets: list[PlacedBset] = field(default_factory=list)
    damage: BcachedError | None = None
    is_torn: bool = False  # the damage may be an interrupted append
    torn: bytes = b""  # that bset, as long as it claims to be; empty if it cannot be one
    claimed: tuple[Key, ...] = ()  # keys that the bset with the wrong checksum seems to hold
    behind: list[PlacedBset] = field(default_factory=list)  # sound ones behind what is damaged
    hidden: Sequence[Key] = ()  # keys of its newest bset, if the beginning of that is missing
    merged: Extents | None = None  # of a sound leaf that was read in columns, without its bsets
    appended: bytes = b""  # the keys of the last of them (plain_leaf.py)

    @property
    def high(self) -> Position:
        """Its keys end here or before."""
        return position_of(self.key)

    @property
    def range(self) -> str:
        """The range as text."""
        return f"inode {self.low[0]} sector {self.low[1]} to inode {self.high[0]} sector {self.high[1]}"

    def all_keys(self) -> list[Key]:
        """The keys of all sound bsets, oldest first."""
        return [key for placed in self.bsets for key in placed.bset.keys]

    def keys_of_newest_first(self) -> list[Key]:
        """The keys of all sound bsets, those of the newest bset first."""
        return [key for placed in reversed(self.bsets) for key in placed.bset.keys]


async def read_node(members: Sequence[MemberFound], key: Key, level: int, low: Position = START) -> NodeFound:
    """Returns the node that a (checked) key names; damage is in the result, not raised."""
    node, member, block_bytes = _unread(members, key, level, low)
    try:
        raw = await member.block_device.read(
            key.pointers[0].sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES
        )
    except DeviceError as error:
        return await read_node_in_parts(members, key, level, low, error)
    except BcachedError as error:
        node.damage = error.with_traceback(None)
        return node
    offset = 0
    try:
        for placed in read_bsets(raw, key, member.superblock.set_magic, block_bytes, node.where):
            node.bsets.append(placed)
            offset = placed.offset_bytes + placed.blocks * block_bytes
        node.hidden = keys_behind(raw, offset)
    except BcachedError as error:
        node.damage = error.with_traceback(None)  # whose frames would keep the node's bytes
        if isinstance(error, BadChecksum):
            node.is_torn = bool(node.bsets) and is_last_bset(raw, offset, block_bytes)
        if node.is_torn:
            node.torn = claimed_bytes(raw, offset)
        else:
            node.behind = list(bsets_behind(raw, offset, key, member.superblock.set_magic, block_bytes))
        node.claimed = claimed_keys(raw, offset)
    return node


async def read_node_in_parts(
    members: Sequence[MemberFound], key: Key, level: int, low: Position, error: DeviceError
) -> NodeFound:
    """Returns what can be read of a node that could not be read whole, block by block.

    It is damaged, even if all that was found is sound: what could not be read may be the newest.
    """
    node, member, block_bytes = _unread(members, key, level, low)
    node.damage = error
    begin, set_magic = key.pointers[0].sector * SECTOR_BYTES, member.superblock.set_magic
    around = ReadAround(member.block_device, block_bytes)
    raw = b"".join(await around.halves(begin, key.sectors * SECTOR_BYTES))
    offset = 0
    with suppress(FormatError):
        for placed in read_bsets(raw, key, set_magic, block_bytes, node.where):
            node.bsets.append(placed)
            offset = placed.offset_bytes + placed.blocks * block_bytes
    node.behind = list(bsets_behind(raw, offset, key, set_magic, block_bytes))
    return node


def _unread(
    members: Sequence[MemberFound], key: Key, level: int, low: Position
) -> tuple[NodeFound, MemberFound, int]:
    """Returns a node before it is read, its member, and the bytes of a block."""
    pointer = key.pointers[0]
    member = members[pointer.device]
    where = f"{member.path} node at sector {pointer.sector}, level {level}"
    return NodeFound(key, level, low, where), member, member.superblock.block_bytes
