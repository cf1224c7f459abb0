# SPDX-License-Identifier: GPL-2.0-only
"""What clients read from memory of their own, by their reports: without these lru would not see it."""

from collections.abc import Sequence

from bcached.errors import InvalidParameter
from bcached.runtime.coordination.shared import Shared
from bcached.state.sectors.key_validity import BucketGen
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.units import SECTOR_BYTES


class Touches:
    """Counts hits and misses of clients, and renews the prios of the buckets that they read."""

    def __init__(self, sectors: SectorAllocator, shared: Shared) -> None:
        self.hits = 0
        self.misses = 0
        self.hit_bytes = 0
        self._validity = sectors.validity
        self._shared = shared

    def touch(self, buckets: Sequence[BucketGen]) -> None:
        """Renew the prios of buckets whose gen is still the one given.

        Raises InvalidParameter for one that the set does not have, and changes nothing.
        """
        for one in buckets:
            if not self._validity.has_bucket(one):
                raise InvalidParameter(
                    "buckets", f"the set has no bucket {one.bucket} of device {one.device}"
                )
        self._validity.touch_buckets(buckets)

    def count(self, hits: int, misses: int, hit_bytes: int) -> None:
        """Count what a client found, and did not find, since its last report: traffic, as look-ups are."""
        self.hits += hits
        self.misses += misses
        self.hit_bytes += hit_bytes
        self._shared.traffic.count_found(hit_bytes // SECTOR_BYTES)
