# SPDX-License-Identifier: GPL-2.0-only
"""One member's buckets as found on disk: gens, uses, and how much live data each holds.

Gens on disk are older than pointers made since: a newer pointer raises its bucket's gen, so staleness is
known only after all pointers were read. A census takes two passes, first `raise_gens`, then `count`.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn
from bcached.state.buckets.bucket_table import Mark
from bcached.state.buckets.gens import (
    Gens,
    ahead,
    ahead_each,
    behind_each,
    is_newer,
    newer_pointers,
)
from bcached.state.buckets.geometry import Geometry


class Use(IntEnum):
    """What a bucket is used for. Of two structures with different uses the second is in error."""

    FREE = 0
    RESERVED = 1  # the superblock's
    JOURNAL = 2
    PRIO = 3
    UUID = 4
    BTREE = 5
    DATA = 6


class Census:
    """The columns of one member, indexed by bucket.

    gens_known is false where the prios on disk are damaged: such a bucket gets the gen of the first pointer.
    """

    def __init__(
        self, geometry: Geometry, gens_on_disk: NDArray[np.uint8], gens_known: NDArray[np.bool_] | None = None
    ) -> None:
        count = geometry.bucket_count
        self.geometry = geometry
        self.gens_on_disk = gens_on_disk.copy()
        self.gens = gens_on_disk.copy()
        self.uses = np.zeros(count, np.uint8)
        self.sectors = np.zeros(count, np.int64)  # of keys that are not stale
        self.dirty_sectors = np.zeros(count, np.int64)
        self.uses[: geometry.first_bucket] = Use.RESERVED
        self.uses[geometry.first_bucket : geometry.journal_buckets.stop] = Use.JOURNAL
        self._furthest_behind = np.zeros(count, np.uint8)  # of the pointers into a bucket, in gens
        self.gens_known = np.ones(count, np.bool_) if gens_known is None else gens_known.copy()
        self._unknown = None if gens_known is None else ~gens_known

    @property
    def oldest(self) -> NDArray[np.uint8]:
        """The oldest gen of the pointers into each bucket, including stale ones."""
        return self.gens - self._furthest_behind

    @property
    def marks(self) -> NDArray[np.uint8]:
        """The mark that the kernel's GC would give each bucket."""
        marks = np.where(self.sectors > 0, np.uint8(Mark.RECLAIMABLE), np.uint8(Mark.NONE))
        marks[self.dirty_sectors > 0] = Mark.DIRTY
        marks[(self.uses >= Use.JOURNAL) & (self.uses <= Use.BTREE)] = Mark.METADATA
        return marks

    @property
    def data_sectors(self) -> NumberColumn:
        """The live sectors of each data bucket; 0 for others."""
        held: NumberColumn = np.where(self.uses == Use.DATA, self.sectors, 0)
        return held

    def claim(self, bucket: int, use: Use) -> Use:
        """Set a FREE bucket's use. Returns its use before, which stays if it is not FREE."""
        before = Use(int(self.uses[bucket]))
        if before == Use.FREE:
            self.uses[bucket] = use
        return before

    def raise_gens(self, buckets: NumberColumn, gens: NumberColumn) -> None:
        """Raise buckets' gens to those of newer pointers (kernel: bch_initial_mark_key)."""
        if self._unknown is not None:
            self._learn(buckets, gens)
        raised, newer = newer_pointers(buckets, gens, self.gens, self.gens_on_disk)
        self.gens[raised] = newer  # where one bucket has several pointers, the newest is assigned last

    def raise_gen(self, bucket: int, gen: int) -> None:
        """Raise a bucket's gen to that of a newer pointer."""
        if self._unknown is not None:
            self._learn(np.array([bucket]), np.array([gen]))
        base = int(self.gens_on_disk[bucket])
        if is_newer(gen, base) and ahead(gen, base) > ahead(int(self.gens[bucket]), base):
            self.gens[bucket] = gen

    def is_told(self, bucket: int) -> bool:
        """Whether the prios or a pointer tell a bucket's gen."""
        return self._unknown is None or not self._unknown[bucket]

    def _learn(self, buckets: NumberColumn, gens: NumberColumn) -> None:
        assert self._unknown is not None
        new = self._unknown[buckets]
        self.gens[buckets[new]] = gens[new].astype(np.uint8)
        self.gens_on_disk[buckets[new]] = self.gens[buckets[new]]
        self._unknown[buckets[new]] = False

    def behind(self, buckets: NumberColumn, gens: NumberColumn) -> Gens:
        """Returns how many gens each pointer is behind its bucket; 0 for valid ones."""
        return behind_each(gens, self.gens[buckets])

    def ahead_of_disk(self) -> Gens:
        """Returns how far each bucket's gen is ahead of the one on disk."""
        return ahead_each(self.gens, self.gens_on_disk)

    def remember(self, buckets: NumberColumn, behind: Gens) -> None:
        """Record how many gens pointers are behind their buckets."""
        np.maximum.at(self._furthest_behind, buckets, behind)

    def count(
        self, buckets: NumberColumn, behind: Gens, sectors: NumberColumn, dirty: NDArray[np.bool_]
    ) -> None:
        """Count keys as live data; of stale ones only record their age."""
        assert len(buckets) == len(behind) == len(sectors) == len(dirty)
        self.remember(buckets, behind)
        live = behind == 0
        np.add.at(self.sectors, buckets[live], sectors[live])
        np.add.at(self.dirty_sectors, buckets[live & dirty], sectors[live & dirty])
