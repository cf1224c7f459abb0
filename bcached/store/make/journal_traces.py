# SPDX-License-Identifier: GPL-2.0-only
"""A cache set whose superblock is gone, recognized by its journal: make must not overwrite it unasked.

An entry has a checksum of its own, and names the set's magic and the root of the index. Only if that is
there, too, the set may be needed: a journal alone may have been left behind years ago.
"""

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.format.jset import JSET_BYTES_MAX, MAGIC_OFFSET, JournalEntry
from bcached.format.magic import JSET
from bcached.format.node_gen import looks_like_node
from bcached.format.superblock import first_bucket_for
from bcached.units import SECTOR_BYTES

BUCKET_SECTORS = [8 << power for power in range(13)]  # 4 KiB to 16 MiB
BUCKETS_LOOKED_AT = 4  # the first ones of a journal: all are in use after a day
NODE_START_BYTES = 4096


async def has_journal(device: BlockDevice) -> bool:
    """Whether there is a journal entry of a set whose index is there."""
    return any([await _has_entry(device, byte) for byte in _places()])


def _places() -> list[int]:
    """Returns the bytes at which a journal's first buckets begin, for all sizes of buckets."""
    return sorted(
        {
            (first_bucket_for(sectors) + number) * sectors * SECTOR_BYTES
            for sectors in BUCKET_SECTORS
            for number in range(BUCKETS_LOOKED_AT)
        }
    )


async def _has_entry(device: BlockDevice, byte: int) -> bool:
    raw = await _read(device, byte, JSET_BYTES_MAX)
    set_magic = JSET ^ int.from_bytes(raw[MAGIC_OFFSET : MAGIC_OFFSET + 8], "little")
    try:
        entry = JournalEntry.parse(raw, set_magic, device.path)
    except BcachedError:
        return False
    return await _has_root(device, entry, set_magic)


async def _has_root(device: BlockDevice, entry: JournalEntry, set_magic: int) -> bool:
    """Whether a node of the set is where an entry has the root of its index."""
    for pointer in entry.root.pointers:
        raw = await _read(device, pointer.sector * SECTOR_BYTES, NODE_START_BYTES)
        if raw and looks_like_node(raw, set_magic):
            return True
    return False


async def _read(device: BlockDevice, byte: int, length: int) -> bytes:
    """Returns a part of the device; nothing if it cannot be read, or is not all there."""
    if byte + length > device.size_bytes:
        return b""
    try:
        return await device.read(byte, length)
    except BcachedError:
        return b""
