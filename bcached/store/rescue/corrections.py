# SPDX-License-Identifier: GPL-2.0-only
"""Single wrong bits of metadata, put right in memory before the set is read again.

A bit that rots in one entry of the journal would leave everything older in doubt, though the entry's checksum
says which bit it is. What is corrected so is as certain as any other structure with a checksum. (Superblocks
are corrected where they are read: superblock_left.py.)
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.format.bset import SEQ_OFFSET
from bcached.format.damage.correction import (
    corrected_bset,
    corrected_entry,
    corrected_prio_set,
)
from bcached.format.jset import JSET_BYTES, JSET_BYTES_MAX
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet, NodeRead, count_nothing
from bcached.store.patched_device import Patch, patched_devices
from bcached.store.prio_chain import follow_chain
from bcached.store.rescue.remains.set_left import SetLeft, read_what_is_left
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.units import SECTOR_BYTES

READINGS = 4  # what is behind damage is seen only when that is corrected


async def read_corrected(
    devices: Sequence[BlockDevice],
    layout: KnownLayout | None = None,
    known: CheckedSet | None = None,
    node_read: NodeRead = count_nothing,
) -> SetLeft:
    """Read everything that can be read, with single wrong bits put right. Nothing is written.

    Known is what a check found just now; its tree is taken if it can be.
    """
    patches: list[Patch] = []
    told: list[str] = []
    for _ in range(READINGS):
        patched = patched_devices(devices, patches)
        left = await read_what_is_left(patched, layout, None if patches else known, node_read)
        left.corrections, left.corrected = told, patches
        found = [correction async for correction in _corrections(left)]
        if not found:
            break
        for what, patch in found:
            device = left.members[patch.member].block_device
            number = next(number for number, one in enumerate(patched) if one is device)
            patches.append(replace(patch, member=number))
            told.append(what)
    return left


async def _corrections(left: SetLeft) -> AsyncIterator[tuple[str, Patch]]:
    """Yields what is corrected, and how."""
    async for correction in _of_journal(left):
        yield correction
    for number in range(len(left.members)):
        async for correction in _of_prios(left, number):
            yield correction
    for node in left.damaged_nodes:
        async for correction in _of_node(left, node):
            yield correction


async def _of_journal(left: SetLeft) -> AsyncIterator[tuple[str, Patch]]:
    """Yields the entries that the journal needs, or that are newer, and have one wrong bit."""
    needed = left.journal.entries[-1].last_seq
    for bucket in left.journal.found.buckets:
        superblock = left.members[bucket.member].superblock
        bucket_bytes = superblock.bucket_bytes
        sound = {placed.offset_bytes for placed in bucket.sound}
        damaged = {trace.byte for trace in bucket.traces} - sound
        if bucket.end is not None and bucket.next_byte not in sound:
            damaged.add(bucket.next_byte)
        for byte in sorted(damaged):
            start = bucket.bucket * bucket_bytes + byte
            length = min(JSET_BYTES_MAX, bucket_bytes - byte)
            if length < JSET_BYTES:
                continue
            raw = await _read_or_nothing(left.members[bucket.member].block_device, start, length)
            has_header = any(raw[:JSET_BYTES])  # none that one bit was wrong of is zeros
            corrected = corrected_entry(raw, superblock.set_magic) if has_header else None
            if corrected is not None and _seq_of(corrected) >= needed:
                yield f"entry {_seq_of(corrected)} at {bucket.where}", Patch(bucket.member, start, corrected)


async def _of_prios(left: SetLeft, number: int) -> AsyncIterator[tuple[str, Patch]]:
    member, geometry = left.members[number], left.checked.censuses[number].geometry
    bucket, seen = left.journal.entries[-1].prio_heads[number], 0
    try:
        async for _, prio_set in follow_chain(
            member.block_device, geometry, bucket, member.superblock.set_magic
        ):
            bucket, seen = prio_set.next_bucket, seen + 1
    except BcachedError:
        if not geometry.first_bucket <= bucket < geometry.bucket_count:
            return
        byte = geometry.byte_of(bucket)
        raw = await _read_or_nothing(member.block_device, byte, geometry.metadata_bytes)
        corrected = corrected_prio_set(raw, member.superblock.set_magic) if raw else None
        if corrected is not None and corrected != raw:
            yield f"prio set {seen} at {member.path} bucket {bucket}", Patch(number, byte, corrected)


async def _of_node(left: SetLeft, node: NodeFound) -> AsyncIterator[tuple[str, Patch]]:
    """Yields the correction of the bset at which reading a node stopped, if there is one."""
    pointer = node.key.pointers[0]
    superblock = left.members[pointer.device].superblock
    block_bytes = superblock.block_bytes
    before = [placed for placed in node.bsets if placed not in node.behind]
    offset = before[-1].offset_bytes + before[-1].blocks * block_bytes if before else 0
    length = node.key.sectors * SECTOR_BYTES
    if offset >= length:
        return
    start = pointer.sector * SECTOR_BYTES
    raw = await _read_or_nothing(left.members[pointer.device].block_device, start + offset, length - offset)
    if not raw:
        return
    seq = node.bsets[0].bset.seq if node.bsets else 0
    corrected = corrected_bset(raw, node.key, superblock.set_magic, seq)
    if corrected is not None and corrected != raw[: len(corrected)]:
        yield f"bset at byte {offset} of {node.where}", Patch(pointer.device, start + offset, corrected)


async def _read_or_nothing(device: BlockDevice, byte: int, length: int) -> bytes:
    try:
        return await device.read(byte, length)
    except BcachedError:
        return b""


def _seq_of(raw: bytes) -> int:
    return int.from_bytes(raw[SEQ_OFFSET : SEQ_OFFSET + 8], "little")
