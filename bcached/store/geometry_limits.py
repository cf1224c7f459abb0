# SPDX-License-Identifier: GPL-2.0-only
"""The valid sizes of a device's buckets and blocks; every refusal names a number that is valid."""

from bcached.errors import GeometryRefused
from bcached.format.bkey import PTR_OFFSET
from bcached.format.sizes import BLOCK_SECTORS_MAX, BUCKET_COUNT_MIN, BUCKET_SECTORS_MAX, BUCKET_SECTORS_MIN
from bcached.format.superblock import first_bucket_for, journal_bucket_count_for
from bcached.state.buckets.geometry import Geometry
from bcached.units import SECTOR_BYTES, format_size

NODES_AT_FIRST = 1  # the root
UUID_TABLES = 2  # the one in use, and the one that takes its place
PRIO_CHAINS = 2  # likewise
DATA_BUCKETS = 1
MEMBER_SECTORS_MAX = PTR_OFFSET.limit + 1


def check_bucket(bucket_bytes: int) -> int:
    """Returns the sectors of a bucket of this size. Raises GeometryRefused if it is invalid."""
    least, most = BUCKET_SECTORS_MIN * SECTOR_BYTES, BUCKET_SECTORS_MAX * SECTOR_BYTES
    _check_power_of_two("bucket", bucket_bytes, least, most)
    return bucket_bytes // SECTOR_BYTES


def check_block(path: str, block_bytes: int, logical_block_bytes: int) -> int:
    """Returns the sectors of a block of this size. Raises GeometryRefused if the device cannot have it."""
    # Kernel: up to a page. Larger ones are refused there, and no bucket could be as small as 4k.
    most = BLOCK_SECTORS_MAX * SECTOR_BYTES
    if logical_block_bytes > most:
        raise GeometryRefused(
            f"{path}: its logical block is {format_size(logical_block_bytes)}, and a block has at most "
            f"{format_size(most)}: no block size is possible"
        )
    _check_power_of_two("block", block_bytes, SECTOR_BYTES, most)
    if block_bytes < logical_block_bytes:
        raise GeometryRefused(
            f"{path}: a block of {format_size(block_bytes)} is smaller than the device's logical block: "
            f"use {format_size(logical_block_bytes)}"
        )
    return block_bytes // SECTOR_BYTES


def _check_power_of_two(what: str, size_bytes: int, least: int, most: int) -> None:
    """Refuse a size that is no power of two between the bounds, and name the nearest below that is."""
    if least <= size_bytes <= most and size_bytes.bit_count() == 1:
        return
    nearest = min(max(1 << max(size_bytes, 1).bit_length() - 1, least), most)
    raise GeometryRefused(
        f"invalid {what} size {format_size(size_bytes)}: must be a power of two from "
        f"{format_size(least)} to {format_size(most)}, such as {format_size(nearest)}"
    )


def geometry_for(size_bytes: int, bucket_sectors: int, block_sectors: int) -> Geometry:
    """Returns the geometry that make-bcache and the first run give a device of this size."""
    bucket_count = size_bytes // (bucket_sectors * SECTOR_BYTES)
    return Geometry(
        bucket_count=bucket_count,
        first_bucket=first_bucket_for(bucket_sectors),
        bucket_sectors=bucket_sectors,
        block_sectors=block_sectors,
        journal_bucket_count=journal_bucket_count_for(bucket_count),
    )


def buckets_needed(geometry: Geometry) -> int:
    """Returns the fewest buckets with which the allocator always makes progress.

    All lists full, both prio chains and both uuid tables written, a root, and one bucket of data. Never fewer
    than the kernel needs: below that its lists would have no length.
    """
    metadata = NODES_AT_FIRST + UUID_TABLES + PRIO_CHAINS * geometry.prio_bucket_count
    lists = sum(geometry.reserve_capacities.values()) + geometry.free_inc_capacity
    reserved = geometry.first_bucket + geometry.journal_bucket_count
    return max(reserved + metadata + lists + DATA_BUCKETS, BUCKET_COUNT_MIN)


def fit(path: str, size_bytes: int, bucket_sectors: int, block_sectors: int) -> Geometry:
    """Returns the geometry of a device of this size. Raises GeometryRefused if it has too few buckets."""
    geometry = geometry_for(size_bytes, bucket_sectors, block_sectors)
    needed = buckets_needed(geometry)
    if geometry.bucket_count < needed:
        raise GeometryRefused(_too_few(path, size_bytes, geometry, needed))
    # A pointer has 43 bits for the sector.
    if geometry.bucket_count * bucket_sectors > MEMBER_SECTORS_MAX:
        most = format_size(MEMBER_SECTORS_MAX * SECTOR_BYTES)
        raise GeometryRefused(
            f"{path}: {format_size(size_bytes)} is more than a key can point into: use at most {most}"
        )
    return geometry


def _too_few(path: str, size_bytes: int, geometry: Geometry, needed: int) -> str:
    """Returns what is too few, and a bucket size or device size that is enough."""
    would_do = f"a device of {_exact(needed * geometry.bucket_bytes)}"
    smaller = geometry.bucket_sectors // 2
    while smaller >= BUCKET_SECTORS_MIN:
        candidate = geometry_for(size_bytes, smaller, geometry.block_sectors)
        if candidate.bucket_count >= buckets_needed(candidate):
            would_do = f"buckets of {format_size(candidate.bucket_bytes)}, or {would_do}"
            break
        smaller //= 2
    bucket = format_size(geometry.bucket_bytes)
    return (
        f"{path}: {format_size(size_bytes)} has {geometry.bucket_count} buckets of {bucket}, and at least "
        f"{needed} are needed: use {would_do}"
    )


def _exact(size_bytes: int) -> str:
    """Returns the size without rounding down: a device made with it must be large enough."""
    return format_size(size_bytes) if "." not in format_size(size_bytes) else f"{size_bytes >> 10}k"
