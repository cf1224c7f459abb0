"""Every bucket's gen and live sectors, counted from the keys of an index that is being opened.

Gens on disk lag behind the pointers that were made since: the newest pointer into a bucket tells its gen, and
only pointers with that gen are live. One pass is enough for both. A pointer with a newer gen takes its bucket
over, and what was counted for the older ones falls away.

Kernel: walks the tree twice (bch_initial_mark_key, then gc). Order does not matter here either.
"""

import numpy as np
from numpy.typing import NDArray

from bcached.state.index.key_rows import Rows

Numbers = NDArray[np.int64]
GEN_MASK, GEN_HALF = 255, 128


class Recount:
    """The counts of one member; gens, those on disk at the beginning, rise in the column it is given."""

    def __init__(self, gens: NDArray[np.uint8], gens_on_disk: NDArray[np.uint8]) -> None:
        count = len(gens)
        self.gens = gens
        self.sectors = np.zeros(count, np.uint32)
        self.dirty_sectors = np.zeros(count, np.uint32)
        # Whether some node or entry on disk names the bucket with its gen on disk, or one ahead of that.
        self.is_named = np.zeros(count, np.bool_)
        # Those on disk before anything raises them; prios are not written while a set is opened.
        self._base = gens_on_disk
        self._furthest_behind = np.zeros(count, np.uint8)  # of the pointers into a bucket, seen from its base
        self.overtook_dirty = False  # whether dirty keys that were counted in have become stale since

    @property
    def oldest(self) -> NDArray[np.uint8]:
        """The oldest gen that anything names, of each bucket; its gen on disk if nothing is older."""
        return self._base - self._furthest_behind

    def add(self, buckets: Numbers, gens: Numbers, sectors: Numbers, dirty: NDArray[np.bool_]) -> bool:
        """Count some pointers in; whether any of them is dirty and stale already."""
        self.name(buckets, gens)
        live = self.gens[buckets] == gens
        any_stale_dirty = bool((dirty & ~live).any())
        buckets, sectors, dirty = buckets[live], sectors[live], dirty[live]
        np.add.at(self.sectors, buckets, sectors)
        np.add.at(self.dirty_sectors, buckets[dirty], sectors[dirty])
        return any_stale_dirty

    def add_rows(self, rows: Rows, bucket_sectors: int) -> bool:
        """Count in the rows of keys of one member; as `add`."""
        return self.add(rows.places // bucket_sectors, rows.gens, rows.sectors, rows.dirty)

    def name(self, buckets: Numbers, gens: Numbers) -> None:
        """Take note of gens that pointers name, without anything being counted live for them."""
        behind = (self._base[buckets] - gens) & GEN_MASK
        is_behind = (behind > 0) & (behind <= GEN_HALF)
        np.maximum.at(self._furthest_behind, buckets[is_behind], behind[is_behind].astype(np.uint8))
        self.is_named[buckets[~is_behind]] = True
        self._raise(buckets, gens)

    def name_one(self, bucket: int, gen: int) -> None:
        """Take note of the gen that a pointer to metadata names."""
        base = int(self._base[bucket])
        behind, ahead = base - gen & GEN_MASK, int(self.gens[bucket]) - base & GEN_MASK
        if 0 < behind <= GEN_HALF:
            self._furthest_behind[bucket] = max(int(self._furthest_behind[bucket]), behind)
            return
        self.is_named[bucket] = True
        if gen - base & GEN_MASK > ahead:
            self._raise(np.array([bucket]), np.array([gen]))

    def _raise(self, buckets: Numbers, gens: Numbers) -> None:
        # Seen from the gen on disk, so that the order in which pointers are met does not matter.
        ahead = (gens - self._base[buckets]) & GEN_MASK
        newer = (ahead < GEN_HALF) & (ahead > (self.gens[buckets] - self._base[buckets]))
        if not newer.any():
            return
        order = np.argsort(ahead[newer], kind="stable")  # the last one of a bucket is the newest
        raised = buckets[newer][order]
        self.gens[raised] = gens[newer][order].astype(np.uint8)
        self.overtook_dirty |= bool(self.dirty_sectors[raised].any())
        self.sectors[raised] = 0
        self.dirty_sectors[raised] = 0

    @property
    def gens_on_disk(self) -> NDArray[np.uint8]:
        """The gens before anything raised them."""
        return self._base
