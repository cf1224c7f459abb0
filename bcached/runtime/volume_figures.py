# SPDX-License-Identifier: GPL-2.0-only
"""The figures of each volume, and who holds buckets: collected for a snapshot."""

from collections.abc import Iterable, Sequence
from heapq import nlargest
from itertools import islice

from bcached.index_state import VolumeState
from bcached.runtime.index.index import Index
from bcached.runtime.index.volume_reads import VolumeReads
from bcached.runtime.sectors.allocations import Allocations
from bcached.runtime.tasks.mover import Mover
from bcached.set_state import HOLDER_ROLES
from bcached.state.sectors.reservations import Holder
from bcached.state.statistics import HolderStatistics
from bcached.store.uuid_table import VolumeInfo

VOLUMES_LISTED = 64  # by their inodes, the lowest first; the figures of all others are summed up
OTHERS = "others"
HOLDERS_NAMED = 3


def volume_states(volumes: Sequence[VolumeInfo], index: Index) -> dict[str, VolumeState]:
    """Returns the figures of the first volumes by inode, and of all others together.

    A few sums over all volumes are all that takes longer with more of them.
    """
    use, counts = index.changes.live.use, index.nodes.tree.leaves.key_counts
    states = {}
    for volume in islice(volumes, VOLUMES_LISTED):
        inode = volume.inode
        states[str(inode)] = _state(
            volume.label,
            volume.flash_only,
            use.live.get(inode, 0),
            use.dirty.get(inode, 0),
            counts.get(inode, 0),
            index.reads.of(inode),
            private=volume.owner is not None and not volume.owner.others_read,
        )
    if len(volumes) > VOLUMES_LISTED:
        total = index.reads.total()
        everything = _state(
            "", False, sum(use.live.values()), sum(use.dirty.values()), sum(counts.values()), total
        )
        states[OTHERS] = _without(everything, states.values())
    return states


def _state(
    label: str,
    flash_only: bool,
    live: int,
    dirty: int,
    keys: int,
    reads: VolumeReads,
    *,
    private: bool = False,
) -> VolumeState:
    return VolumeState(
        label=label,
        flash_only=flash_only,
        live_sectors=max(live, dirty, 0),
        dirty_sectors=max(dirty, 0),
        keys=max(keys, 0),
        lookups=reads.lookups,
        lookup_hits=reads.hits,
        lookup_sectors=reads.sectors,
        lookup_hit_sectors=reads.hit_sectors,
        private=private,
    )


def _without(total: VolumeState, listed: Iterable[VolumeState]) -> VolumeState:
    """Returns the total without the figures of some volumes."""
    rest = {
        name: max(getattr(total, name) - sum(getattr(each, name) for each in listed), 0)
        for name in VolumeState.__struct_fields__[2:-1]  # between label, flash_only and private
    }
    return VolumeState("", False, **rest)


def dirty_by_inode(index: Index) -> dict[str, int]:
    """Returns the dirty sectors of the inodes with the most of them."""
    dirty = {inode: sectors for inode, sectors in index.changes.live.use.dirty.items() if sectors > 0}
    largest = nlargest(VOLUMES_LISTED, dirty, key=dirty.__getitem__)
    return {str(inode): dirty[inode] for inode in largest}


def buckets_held(allocations: Allocations, mover: Mover) -> dict[str, int]:
    """Returns how many buckets connections hold sectors of, or read, by role.

    A bucket that several hold counts for each.
    """
    held = dict.fromkeys(HOLDER_ROLES, 0)
    for holder in allocations.holders:
        held[holder.role] = held.get(holder.role, 0) + _buckets(holder)
    held["quarantine"] = sum(map(_buckets, allocations.quarantine.holders()))
    held["gc"] = _buckets(mover.holder)
    return held


def _buckets(holder: Holder) -> int:
    return len(holder.pieces) + len(holder.reads)


def largest_holders(allocations: Allocations) -> tuple[HolderStatistics, ...]:
    """Returns the holders of most buckets, for sentences."""
    holders = [*allocations.holders, *allocations.quarantine.holders()]
    return tuple(
        HolderStatistics(holder.name, len(holder.pieces), len(holder.reads), holder.is_closed)
        for holder in nlargest(HOLDERS_NAMED, holders, key=_buckets)
        if _buckets(holder)
    )
