# SPDX-License-Identifier: GPL-2.0-only
"""Which bsets of a damaged leaf nothing newer is missing of: those behind the last damage."""

from collections.abc import Sequence

from bcached.errors import BcachedError, DeviceError
from bcached.format.bset import PlacedBset
from bcached.format.damage.hidden_keys import keys_behind
from bcached.format.node_gen import gen_of_node, may_be_bset
from bcached.store.btree.node_reader import NodeFound
from bcached.store.membership import MemberFound
from bcached.store.read_around import ReadAround
from bcached.units import SECTOR_BYTES


async def bsets_behind_all_damage(members: Sequence[MemberFound], node: NodeFound) -> list[PlacedBset]:
    """Returns the sound bsets of a node that follow its last damaged one.

    1. A gap between two of them is damage, too. 2. So is something like a bset behind the last one, unless
    its checksum is that of a former node in the same bucket, which had another gen. 3. So are keys behind
    zeros there: the beginning of a newer bset was erased.
    """
    pointer = node.key.pointers[0]
    superblock = members[pointer.device].superblock
    block_bytes = superblock.block_bytes
    newest: list[PlacedBset] = []
    end = 0
    for placed in node.behind:
        if placed.offset_bytes != end:
            newest = []
        newest.append(placed)
        end = placed.offset_bytes + placed.blocks * block_bytes
    length = node.key.sectors * SECTOR_BYTES
    if not newest or end >= length:
        return newest
    try:
        raw = await members[pointer.device].block_device.read(
            pointer.sector * SECTOR_BYTES + end, length - end
        )
    except BcachedError:
        return []
    if keys_behind(raw, 0):
        return []
    if not may_be_bset(raw, superblock.set_magic, newest[0].bset.seq):
        return newest
    gen = gen_of_node(raw, pointer.device, pointer.sector, superblock.set_magic)
    return [] if gen is None or gen == pointer.gen else newest


async def lacks_nothing(members: Sequence[MemberFound], node: NodeFound) -> bool:
    """Whether a node that cannot be read whole has all its bsets.

    They follow each other without a gap. So none is in bad sectors further behind, if the block behind the
    last one can be read, and no bset begins there.
    """
    if not isinstance(node.damage, DeviceError) or not node.bsets or node.behind:
        return False
    pointer = node.key.pointers[0]
    superblock = members[pointer.device].superblock
    block_bytes = superblock.block_bytes
    last = node.bsets[-1]
    end = last.offset_bytes + last.blocks * block_bytes
    if end >= node.key.sectors * SECTOR_BYTES:
        return True
    around = ReadAround(members[pointer.device].block_device, block_bytes)
    length = min(node.key.sectors * SECTOR_BYTES - end, block_bytes + SECTOR_BYTES)
    raw = await around.read(pointer.sector * SECTOR_BYTES + end, length)
    if around.is_hole(pointer.sector * SECTOR_BYTES + end, pointer.sector * SECTOR_BYTES + end + block_bytes):
        return False
    return not keys_behind(raw, 0) and not may_be_bset(raw, superblock.set_magic, node.bsets[0].bset.seq)
