# SPDX-License-Identifier: GPL-2.0-only
"""What another size means for a member: what is dropped, what is moved, and whether it can be."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bcached.errors import GeometryRefused, SetRefused
from bcached.format.sizes import node_sectors
from bcached.state.accounting.check_counts import Use
from bcached.state.buckets.geometry import Geometry
from bcached.state.index.node_shape import NodeShape
from bcached.store.check.checker import CheckedSet
from bcached.store.geometry_limits import MEMBER_SECTORS_MAX, buckets_needed
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound, with_new_journal
from bcached.store.resize.empty_buckets import droppable_buckets, empty_buckets
from bcached.store.resize.kept_keys import FittingKeys
from bcached.store.resize.tree_writer import nodes_needed
from bcached.units import SECTOR_BYTES, format_size


@dataclass(frozen=True, slots=True, eq=False)
class ResizePlan:
    """From one number of buckets to another, in sectors and buckets."""

    checked: CheckedSet
    member: int
    before: Geometry
    after: Geometry
    dropped_sectors: int = 0  # clean data behind the new end
    moved_buckets: int = 0  # metadata behind the new end
    nodes: int = 0  # of the index that is written again; 0 if it stays
    # Buckets of clean data that are emptied first, as there are too few empty ones.
    emptied: NDArray[np.int64] | None = None

    @property
    def found(self) -> MemberFound:
        """The member."""
        return self.checked.members[self.member]

    @property
    def shrinks(self) -> bool:
        """Whether it becomes smaller."""
        return self.after.bucket_count < self.before.bucket_count

    @property
    def emptied_sectors(self) -> int:
        """Clean data that is dropped to make room for metadata."""
        return (
            0 if self.emptied is None else int(self.checked.censuses[self.member].sectors[self.emptied].sum())
        )

    @property
    def metadata_end(self) -> int:
        """The bucket behind the last one that may hold new metadata."""
        return self.after.bucket_count


def shape_of(member: MemberFound) -> NodeShape:
    """Returns the sizes of a member's new nodes."""
    superblock = member.superblock
    block_bytes = superblock.block_bytes
    return NodeShape(node_sectors(superblock.bucket_sectors), block_bytes, superblock.bucket_sectors)


def plan_resize(checked: CheckedSet, number: int, bucket_count: int) -> ResizePlan:
    """Returns the plan. Raises GeometryRefused or SetRefused if the member cannot have so many buckets."""
    member = checked.members[number]
    before = geometry_of(member.superblock)
    after = replace(before, bucket_count=bucket_count)
    _refuse_invalid(member, checked, after)
    plan = ResizePlan(checked, number, before, after)
    if checked.is_fresh or bucket_count == before.bucket_count:
        return plan
    if plan.shrinks:
        plan = _shrinking(plan)
    return _with_room(plan)


def _refuse_invalid(member: MemberFound, checked: CheckedSet, after: Geometry) -> None:
    if checked.is_fresh:
        superblock = replace(member.superblock, bucket_count=after.bucket_count)
        after = geometry_of(with_new_journal(superblock))
    needed = buckets_needed(after)
    if after.bucket_count < needed:
        size = format_size(needed * after.bucket_bytes)
        raise GeometryRefused(
            f"{member.path}: expected {needed} buckets ({size}) or more, found {after.bucket_count}"
        )
    if after.bucket_count * after.bucket_sectors > MEMBER_SECTORS_MAX:
        most = format_size(MEMBER_SECTORS_MAX * SECTOR_BYTES)
        raise GeometryRefused(f"{member.path}: a key cannot point behind {most}: choose a smaller size")


def _shrinking(plan: ResizePlan) -> ResizePlan:
    """Returns the plan with what is behind the new end. Raises SetRefused if that is dirty data."""
    census, end = plan.checked.censuses[plan.member], plan.after.bucket_count
    dirty = np.flatnonzero(census.dirty_sectors[end:])
    if len(dirty):
        sectors = int(census.dirty_sectors[end:].sum())
        least = (end + int(dirty[-1]) + 1) * plan.after.bucket_bytes
        size = format_size(sectors * SECTOR_BYTES)
        raise SetRefused(
            f"{plan.found.path}: {sectors:,} sectors ({size}) of dirty data in {len(dirty):,} buckets are "
            "behind the new end; nothing was changed. Write them back first, or choose "
            f"{least >> 10}k or more"
        )
    metadata = (census.uses >= Use.PRIO) & (census.uses <= Use.BTREE)
    kept = FittingKeys(plan.checked, plan.member, end)
    return replace(
        plan,
        dropped_sectors=int(census.data_sectors[end:].sum()),
        moved_buckets=int(metadata[end:].sum()),
        nodes=nodes_needed(shape_of(plan.found), kept.words()),
    )


def _with_room(plan: ResizePlan) -> ResizePlan:
    """Returns the plan with the buckets to empty first. Raises SetRefused if there are too few."""
    census = plan.checked.censuses[plan.member]
    old, new = plan.before.prio_bucket_count, plan.after.prio_bucket_count
    # Until there is a new superblock only the old buckets are there: a longer chain may end behind them.
    end = min(plan.before.bucket_count, plan.after.bucket_count)
    uuid_table = 1 if plan.shrinks else 0
    needed = plan.nodes + old + uuid_table if plan.shrinks else old
    grown = max(plan.after.bucket_count - plan.before.bucket_count, 0)
    needed = max(needed, new - grown)
    missing = needed - len(empty_buckets(census, end))
    if missing <= 0:
        return plan
    # Emptying takes a prio chain of its own, and the one in use becomes empty by it.
    droppable = droppable_buckets(census, end)
    if len(empty_buckets(census, end)) < old or len(droppable) < missing:
        raise SetRefused(
            f"{plan.found.path}: {needed} empty buckets are needed for new metadata below bucket {end}, and "
            f"{missing} of them hold other metadata or dirty data; nothing was changed. Write dirty data "
            "back first, or choose another size"
        )
    return replace(plan, emptied=droppable[:missing])
