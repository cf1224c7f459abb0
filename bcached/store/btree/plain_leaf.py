# SPDX-License-Identifier: GPL-2.0-only
"""A sound leaf, read and merged in columns: nearly all leaves are, and it takes a twentieth of the time."""

from collections.abc import Sequence
from dataclasses import dataclass

from bcached.errors import FormatError
from bcached.format.bkey import Bounds
from bcached.format.bset import BSET_HEADER, read_frames
from bcached.format.damage.hidden_keys import keys_behind
from bcached.format.sizes import PAGE_BYTES
from bcached.keys import Key
from bcached.state.index.keys.bset_merge import merge_bsets
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position, position_of
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class PlainLeaf:
    """The merged keys of a leaf, and where the next bset would be appended."""

    extents: Extents
    seq: int
    blocks_used: int
    hidden: Sequence[Key] = ()  # keys of its newest bset, if the beginning of that is missing
    appended: bytes = b""  # the keys of its last bset, if it has several, and this one fits in a page


async def read_plain_leaf(
    members: Sequence[MemberFound], key: Key, low: Position, bounds: Bounds
) -> PlainLeaf | None:
    """Returns the leaf that a (checked) key names; None if it has to be read key by key.

    Whatever a reading key by key would report makes it None. Raises DeviceError if it cannot be read.
    """
    pointer = key.pointers[0]
    member = members[pointer.device]
    block_bytes = member.superblock.block_bytes
    raw = await member.block_device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
    try:
        frames = list(read_frames(raw, key, member.superblock.set_magic, block_bytes))
    except FormatError:
        return None
    bsets = [frame.keys for frame in frames]
    extents = merge_bsets(bsets, low, position_of(key), bounds, bounds.bucket_sectors)
    if extents is None:
        return None
    last = frames[-1]
    blocks = last.offset_bytes // block_bytes + last.blocks
    is_short = len(frames) > 1 and len(last.keys) <= PAGE_BYTES - BSET_HEADER.size
    appended = bytes(last.keys) if is_short else b""
    return PlainLeaf(extents, last.seq, blocks, keys_behind(raw, blocks * block_bytes), appended)
