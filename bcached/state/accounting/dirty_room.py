# SPDX-License-Identifier: GPL-2.0-only
"""How much dirty data allocators may add: it is never evicted, so too much leaves no room for caching.

Kernel: writes go past the cache while more of it is dirty or metadata than CUTOFF_WRITEBACK_SYNC.
"""

from collections.abc import Sequence

from bcached.errors import LimitExceeded
from bcached.keys import Key
from bcached.state.buckets.member_buckets import MemberBuckets


class DirtyRoom:
    """The dirty data of all members together, against their size."""

    def __init__(self, members: Sequence[MemberBuckets]) -> None:
        self._tables = [member.table for member in members]
        geometries = [member.geometry for member in members]
        self._sectors = sum(each.bucket_count * each.bucket_sectors for each in geometries)

    def check(self, keys: Sequence[Key], percent: int) -> None:
        """Raises LimitExceeded if dirty ones of these keys would make more than so much of the set dirty."""
        added = sum(key.sectors * len(key.pointers) for key in keys if key.dirty)
        dirty = added + sum(table.dirty_sectors_total for table in self._tables)
        if added and 100 * dirty > percent * self._sectors:
            raise LimitExceeded("dirty_percent", 100 * dirty // self._sectors)
