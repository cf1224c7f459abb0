# SPDX-License-Identifier: GPL-2.0-only
"""Every bucket's gen and live sectors, counted from the keys of an index that is being opened.

Gens on disk are older than the pointers made since: the newest pointer into a bucket gives its gen, and only
pointers with that gen are live. One pass does both: a pointer with a newer gen raises its bucket's, and
resets what was counted for older pointers.

Kernel: walks the tree twice (bch_initial_mark_key, then gc). Here, too, the order does not matter.
"""

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn
from bcached.state.buckets.gens import ahead, behind, behind_each, newer_pointers
from bcached.state.buckets.geometry import Geometry
from bcached.state.index.keys.key_rows import Rows


class Recount:
    """The counts of one member; the column gens starts as the gens on disk, and is raised in place."""

    def __init__(self, gens: NDArray[np.uint8], gens_on_disk: NDArray[np.uint8]) -> None:
        count = len(gens)
        self.gens = gens
        self.sectors = np.zeros(count, np.uint32)
        self.dirty_sectors = np.zeros(count, np.uint32)
        # Whether a node or entry on disk names the bucket with its gen on disk, or a newer one.
        self.is_named = np.zeros(count, np.bool_)
        # The gens on disk, which stay: prios are not written while a set is opened.
        self._base = gens_on_disk
        self._furthest_behind = np.zeros(count, np.uint8)  # of its pointers, from the gen on disk
        self.overtook_dirty = False  # whether dirty keys became stale after they were counted

    @property
    def oldest(self) -> NDArray[np.uint8]:
        """The oldest gen named by a pointer, of each bucket; its gen on disk if none is older."""
        return self._base - self._furthest_behind

    def add(
        self, buckets: NumberColumn, gens: NumberColumn, sectors: NumberColumn, dirty: NDArray[np.bool_]
    ) -> bool:
        """Count pointers. Returns whether any of them is dirty and stale already."""
        self.name(buckets, gens)
        live = self.gens[buckets] == gens
        any_stale_dirty = bool((dirty & ~live).any())
        # Of the column's type: with another one numpy adds up a hundred times as slowly.
        buckets, sectors, dirty = buckets[live], sectors[live].astype(np.uint32), dirty[live]
        np.add.at(self.sectors, buckets, sectors)
        np.add.at(self.dirty_sectors, buckets[dirty], sectors[dirty])
        return any_stale_dirty

    def add_rows(self, rows: Rows, geometry: Geometry) -> bool:
        """Count the rows of keys of one member. Returns what `add` returns."""
        return self.add(geometry.buckets_of(rows.first_sectors), rows.gens, rows.sectors, rows.dirty)

    def name(self, buckets: NumberColumn, gens: NumberColumn) -> None:
        """Record the gens of pointers, without counting live sectors for them."""
        steps = behind_each(gens, self._base[buckets])
        is_behind = steps > 0
        np.maximum.at(self._furthest_behind, buckets[is_behind], steps[is_behind])
        self.is_named[buckets[~is_behind]] = True
        self._raise(buckets, gens)

    def name_one(self, bucket: int, gen: int) -> None:
        """Record the gen of a pointer to metadata."""
        base = int(self._base[bucket])
        steps = behind(gen, base)
        if steps:
            self._furthest_behind[bucket] = max(int(self._furthest_behind[bucket]), steps)
            return
        self.is_named[bucket] = True
        if ahead(gen, base) > ahead(int(self.gens[bucket]), base):
            self._raise(np.array([bucket]), np.array([gen]))

    def _raise(self, buckets: NumberColumn, gens: NumberColumn) -> None:
        raised, newer = newer_pointers(buckets, gens, self.gens, self._base)
        self.gens[raised] = newer  # where one bucket has several pointers, the newest is assigned last
        self.overtook_dirty |= bool(self.dirty_sectors[raised].any())
        self.sectors[raised] = 0
        self.dirty_sectors[raised] = 0

    @property
    def gens_on_disk(self) -> NDArray[np.uint8]:
        """The gens on disk, as they were before any were raised."""
        return self._base
