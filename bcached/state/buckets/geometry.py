# SPDX-License-Identifier: GPL-2.0-only
"""The geometry of one member device: its layout, and the capacity of each list.

The capacities are the kernel's: all follow from the number of buckets (kernel: cache_alloc).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.format import prio_set, sizes
from bcached.units import SECTOR_BYTES

INITIAL_PRIO = 32768
METADATA_PRIO = 65535  # kernel: BTREE_PRIO
BucketId = tuple[int, int]  # (device, bucket), of a set of several members

GEN_DISTANCE_MAX = 96  # kernel: BUCKET_GC_GEN_MAX


def fifo_capacity(wanted: int) -> int:
    """Capacity of a kernel fifo for `wanted` elements: above four, one less than a power of two."""
    return wanted if wanted <= 4 else roundup_power_of_two(wanted) - 1


def roundup_power_of_two(number: int) -> int:
    """The smallest power of two that is not below number."""
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Geometry:
    """Layout of one member; sizes in sectors or bytes as named, everything else in buckets."""

    bucket_count: int
    first_bucket: int
    bucket_sectors: int
    block_sectors: int
    journal_bucket_count: int

    @property
    def bucket_bytes(self) -> int:
        """Bytes in a bucket."""
        return self.bucket_sectors * SECTOR_BYTES

    @property
    def block_bytes(self) -> int:
        """Bytes in a block, the unit of allocation and of metadata writes."""
        return self.block_sectors * SECTOR_BYTES

    @property
    def metadata_bytes(self) -> int:
        """Bytes of a prio set or of the uuid table: a bucket, up to 4 MiB."""
        return sizes.metadata_bytes(self.bucket_sectors)

    @property
    def prios_per_bucket(self) -> int:
        """Buckets described by one prio set."""
        return prio_set.prios_per_bucket(self.metadata_bytes)

    @property
    def prio_bucket_count(self) -> int:
        """Buckets in one prio chain."""
        return prio_set.prio_bucket_count(self.bucket_count, self.bucket_sectors)

    @property
    def free_size(self) -> int:
        """About a thousandth of the buckets, the unit of all list capacities (kernel: free)."""
        return roundup_power_of_two(self.bucket_count) >> 10

    @property
    def reserve_capacities(self) -> dict[str, int]:
        """How many buckets each reserve holds."""
        return {
            "btree": fifo_capacity(max(self.journal_bucket_count, 8)),
            "prio": self.prio_bucket_count,
            "movinggc": fifo_capacity(self.free_size),
            "none": fifo_capacity(self.free_size),
        }

    @property
    def free_inc_capacity(self) -> int:
        """How many invalidated buckets one prio write makes durable."""
        return fifo_capacity(self.free_size * 4)

    @property
    def unused_capacity(self) -> int:
        """How many buckets the unused list holds: as many as free_inc, as in kernels that had the list."""
        return self.free_inc_capacity

    @property
    def heap_size(self) -> int:
        """How many candidates one lru pass keeps."""
        return self.free_size * 8

    @property
    def journal_buckets(self) -> range:
        """The journal's buckets."""
        return range(self.first_bucket, self.first_bucket + self.journal_bucket_count)

    def bucket_of(self, sector: int) -> int:
        """The bucket that contains a device sector."""
        return sector // self.bucket_sectors

    def buckets_of(self, sectors: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bucket that contains each of these device sectors."""
        return sectors // self.bucket_sectors

    def sector_of(self, bucket: int) -> int:
        """The first sector of a bucket."""
        return bucket * self.bucket_sectors

    def byte_of(self, bucket: int) -> int:
        """The first byte of a bucket."""
        return bucket * self.bucket_bytes
