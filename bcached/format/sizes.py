# SPDX-License-Identifier: GPL-2.0-only
"""Sizes that follow from the size of a bucket: of metadata, btree nodes and the uuid table."""

from bcached.units import SECTOR_BYTES

PAGE_BYTES = 4096  # the kernel's page on x86; it refuses larger blocks, so bcached makes none
METADATA_BYTES_MAX = 4 << 20
NODE_PAGES = 64  # bcache's first node size, kept for buckets up to 1 MiB
UUID_ENTRY_BYTES = 128

BLOCK_SECTORS_MAX = 8
BLOCK_SECTORS_READ_MAX = 128  # of kernels with pages of 64 KiB; only offline tools read such sets
BUCKET_SECTORS_MIN = 8
BUCKET_SECTORS_MAX = 32768
BUCKET_COUNT_MIN = 513  # with fewer the kernel's lists would have no length
MEMBERS_MAX = 8
JOURNAL_BUCKETS_MAX = 256


def metadata_bytes(bucket_sectors: int) -> int:
    """Returns the bytes used of a bucket that holds prios or uuids."""
    return min(bucket_sectors * SECTOR_BYTES, METADATA_BYTES_MAX)


def node_sectors(bucket_sectors: int) -> int:
    """Returns the sectors of a new btree node; a reader uses the node's key instead."""
    pages = metadata_bytes(bucket_sectors) // PAGE_BYTES
    if pages > NODE_PAGES:
        pages = max(pages // 4, NODE_PAGES)
    return pages * PAGE_BYTES // SECTOR_BYTES


def uuid_slots(bucket_sectors: int) -> int:
    """Returns the number of slots in the uuid table, and so of possible volumes."""
    return metadata_bytes(bucket_sectors) // UUID_ENTRY_BYTES
