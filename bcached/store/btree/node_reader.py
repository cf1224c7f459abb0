# SPDX-License-Identifier: GPL-2.0-only
"""One node of the btree, read from a device that may be damaged: its bsets as far as they are sound.

A node is appended to in place. An interrupted append leaves a last bset with the node's seq and a wrong
checksum; it is dropped, and the keys of a leaf's come from the journal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.errors import BadChecksum, BcachedError
from bcached.format.bset import PlacedBset, bsets_behind, claimed_keys, is_last_bset, read_bsets
from bcached.keys import Key
from bcached.state.index.extents import Extents
from bcached.state.index.interior_keys import START, Position, position_of
from bcached.store.membership import MemberFound
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
    claimed: tuple[Key, ...] = ()  # keys that the bset with the wrong checksum seems to hold
    behind: list[PlacedBset] = field(default_factory=list)  # sound ones behind what is damaged
    merged: Extents | None = None  # of a sound leaf that was read in columns, without its bsets

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
    pointer = key.pointers[0]
    member = members[pointer.device]
    superblock = member.superblock
    block_bytes = superblock.block_sectors * SECTOR_BYTES
    node = NodeFound(key, level, low, f"{member.path} node at sector {pointer.sector}, level {level}")
    try:
        raw = await member.block_device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
    except BcachedError as error:
        node.damage = error
        return node
    offset = 0
    try:
        for placed in read_bsets(raw, key, superblock.set_magic, block_bytes, node.where):
            node.bsets.append(placed)
            offset = placed.offset_bytes + placed.blocks * block_bytes
    except BcachedError as error:
        node.damage = error
        if isinstance(error, BadChecksum):
            node.is_torn = bool(node.bsets) and is_last_bset(raw, offset, block_bytes)
        if not node.is_torn:
            node.behind = list(bsets_behind(raw, offset, key, superblock.set_magic, block_bytes))
        node.claimed = claimed_keys(raw, offset)
    return node
