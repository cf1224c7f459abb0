# SPDX-License-Identifier: GPL-2.0-only
"""Buckets for new metadata, on a set that is not open: none that the old metadata or a kept key uses.

So a repair that is interrupted leaves the old metadata as it was. If there are too few, buckets with clean
data only give theirs up.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.errors import SetRefused
from bcached.state.accounting.check_counts import Census, Use
from bcached.store.repair.new_metadata.kept_keys import KeptKeys
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.unread_device import unread_of

NAMED_BY_NOTHING, DROPPED_CLEAN, DROPPED_DIRTY, IN_USE = range(4)


@dataclass(slots=True)
class NewBuckets:
    """The buckets that may be taken on each member, the best first, and the gens that all will have."""

    left: SetLeft
    gens: list[NDArray[np.uint8]]
    _free: list[NDArray[np.int64]] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)  # of each member

    @classmethod
    def of(cls, kept: KeptKeys, wanted: list[int]) -> "NewBuckets":
        """Returns what there is, so that each member has as many as wanted. Raises SetRefused if it has not.

        What has no key any more gets a new gen: if an old node is found again, its keys are stale.
        """
        left = kept.left
        dirty, clean = kept.sectors_by_bucket()
        censuses = [left.checked.censuses[number] for number in kept.present]
        buckets = cls(left, [census.gens.copy() for census in censuses])
        evicted = set[tuple[int, int]]()
        for device, census in enumerate(censuses):
            rank = _ranks(left, census, kept.present[device])
            rank[(dirty[device] > 0) | (clean[device] > 0)] = IN_USE
            uncopied = _uncopied(left, census, kept.present[device])
            rank[uncopied] = IN_USE
            in_order = np.argsort(rank, kind="stable")
            free = in_order[rank[in_order] < IN_USE]
            lacking = wanted[device] - len(free)
            if lacking > 0:
                only_clean = np.flatnonzero((clean[device] > 0) & (dirty[device] == 0) & ~uncopied)
                cheapest = only_clean[np.argsort(clean[device][only_clean], kind="stable")][:lacking]
                evicted |= {(device, bucket) for bucket in cheapest.tolist()}
                free = np.append(free, cheapest)
            if wanted[device] > len(free):
                path = left.members[kept.present[device]].path
                raise SetRefused(
                    f"{path}: expected {wanted[device]} buckets that hold neither metadata nor dirty data "
                    f"for new metadata, found {len(free)}: rescue the dirty data instead (bcachectl rescue)"
                )
            buckets._free.append(free[: wanted[device]])
            buckets.taken.append(0)
            buckets._raise_gens(device, census, dirty[device] + clean[device], rank)
        kept.drop_clean_in(evicted)
        return buckets

    def _raise_gens(
        self, device: int, census: Census, kept: NDArray[np.int64], rank: NDArray[np.uint8]
    ) -> None:
        is_old = (kept == 0) & ((rank != NAMED_BY_NOTHING) | np.isin(census.uses, (Use.UUID, Use.BTREE)))
        self.gens[device][is_old] += 1

    def take(self, device: int) -> int:
        """Returns a bucket of a member, with a new gen."""
        bucket = int(self._free[device][self.taken[device]])
        self.taken[device] += 1
        self.gens[device][bucket] += 1
        return bucket


def _ranks(left: SetLeft, census: Census, device: int) -> NDArray[np.uint8]:
    """Returns how willingly each bucket is given up: the lower the better; IN_USE never."""
    rank = np.zeros(census.geometry.bucket_count, np.uint8)
    tree = left.checked.tree
    for rows in tree.rows.chunks() if tree is not None else ():
        here = rows.where(rows.devices == device)
        buckets = census.geometry.buckets_of(here.first_sectors)
        np.maximum.at(rank, buckets, np.where(here.dirty, DROPPED_DIRTY, DROPPED_CLEAN).astype(np.uint8))
    rank[(census.uses != Use.FREE) & (census.uses != Use.DATA)] = IN_USE
    rank[[bucket for member, bucket in left.found_nodes if member == device]] = IN_USE
    return rank


def _uncopied(left: SetLeft, census: Census, device: int) -> NDArray[np.bool_]:
    """Returns which buckets a copy lacks in part: what is written there would count as not copied, too."""
    lacking = np.zeros(census.geometry.bucket_count, bool)
    for sectors in unread_of(left.members[device].block_device):
        last = min(sectors.stop - 1, census.geometry.sector_of(len(lacking)) - 1)
        lacking[census.geometry.bucket_of(sectors.start) : census.geometry.bucket_of(last) + 1] = True
    return lacking


def buckets_in_use(left: SetLeft, device: int) -> NDArray[np.bool_]:
    """Returns which buckets of a member hold more than a superblock or the journal."""
    census = left.checked.censuses[device]
    in_use: NDArray[np.bool_] = _ranks(left, census, device) != NAMED_BY_NOTHING
    in_use[np.isin(census.uses, (Use.RESERVED, Use.JOURNAL))] = False
    return in_use
