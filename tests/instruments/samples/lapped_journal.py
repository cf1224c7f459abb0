# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a kernel's image as if its ring had been round before: all seqs are higher by a lap.

What was never written, behind the newest entry and in the buckets behind it, has entries of the earlier lap.
"""

from dataclasses import replace

from bcached.format.jset import PlacedEntry, scan_journal_bucket
from bcached.format.superblock import SUPERBLOCK_BYTES, Superblock
from bcached.units import SECTOR_BYTES

LAP = 10_000
SUPERBLOCK_AT = 4096


def in_a_later_lap(raw: bytes) -> bytes:
    """An image of the first lap with its journal in the second."""
    superblock = Superblock.parse(
        raw[SUPERBLOCK_AT : SUPERBLOCK_AT + SUPERBLOCK_BYTES],
        device_bytes=len(raw),
        logical_block_bytes=SECTOR_BYTES,
        where="",
    )
    bucket_bytes = superblock.bucket_bytes
    block_bytes = superblock.block_bytes
    image = bytearray(raw)
    begins = [bucket * bucket_bytes for bucket in superblock.journal_buckets]
    entries: list[list[PlacedEntry]] = []
    for begin in begins:
        bucket = raw[begin : begin + bucket_bytes]
        entries.append(scan_journal_bucket(bucket, superblock.set_magic, block_bytes, "")[0])
    newest = max(
        range(len(begins)), key=lambda index: max((it.entry.seq for it in entries[index]), default=0)
    )
    unused: list[int] = []
    for index in [*range(newest, len(begins)), *range(newest)]:
        behind = sum(placed.blocks for placed in entries[index]) * block_bytes
        if index == newest or not behind:
            unused += range(begins[index] + behind, begins[index] + bucket_bytes, block_bytes)
        for placed in entries[index]:
            seq, last_seq = placed.entry.seq + LAP, placed.entry.last_seq + LAP
            later = replace(placed.entry, seq=seq, last_seq=last_seq)
            packed = later.pack(superblock.set_magic, block_bytes)
            at = begins[index] + placed.offset_bytes
            image[at : at + len(packed)] = packed
    template = replace(entries[newest][-1].entry, keys=())
    for seq, at in enumerate(unused, LAP + 1 - len(unused)):
        older = replace(template, seq=seq, last_seq=seq - 1)
        image[at : at + block_bytes] = older.pack(superblock.set_magic, block_bytes)
    return bytes(image)
