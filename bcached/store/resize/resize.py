# SPDX-License-Identifier: GPL-2.0-only
"""A member of a set made larger or smaller, with every write in an order that any cut leaves a sound set.

1. If there are too few empty buckets, clean data is invalidated as ever: gens in a new prio chain, and the
   journal entry that names it. 2. A new prio chain; when shrinking, also the whole index without anything
   behind the new end, not even stale keys (Kernel: refuses a set with one), and the volumes; all of it in
   empty buckets below that end. 3. The journal entry that names them: the member has its old size still, and
   nothing is behind the new end. 4. The superblock.
"""

from collections.abc import Callable
from dataclasses import replace

from bcached.format.jset import JournalEntry
from bcached.keys import Key
from bcached.state.buckets.geometry import Geometry
from bcached.store.journal.locations import Locations
from bcached.store.member import SEQ_MASK
from bcached.store.membership import MemberFound
from bcached.store.prio_chain import write_chain
from bcached.store.resize.empty_buckets import EmptyBuckets
from bcached.store.resize.kept_keys import FittingKeys
from bcached.store.resize.next_entry import append_entry
from bcached.store.resize.plan import ResizePlan, shape_of
from bcached.store.resize.tree_writer import TreeWriter
from bcached.store.superblock_slot import write_superblock
from bcached.store.uuid_table import UuidTable

Progress = Callable[[int], None]  # nodes of the index that are written
NODES_A_REPORT = 16


async def empty_first(plan: ResizePlan) -> None:
    """Invalidate the buckets that the plan empties; afterwards the set is to be checked and planned again."""
    assert plan.emptied is not None
    count = plan.before.bucket_count
    buckets = EmptyBuckets(
        plan.checked.censuses[plan.member], plan.checked.chains[plan.member], count, plan.metadata_end
    )
    buckets.gens[plan.emptied] += 1
    locations, last_seq = _as_now(plan)
    await _write_chain(plan, plan.before, buckets, locations)
    await append_entry(plan.checked, _next_entry(plan, locations, last_seq))


async def resize(plan: ResizePlan, progress: Progress = lambda _: None) -> None:
    """Carry out a plan that empties nothing first. Its device must have the size already if it grows."""
    assert plan.emptied is None
    if plan.before.bucket_count != plan.after.bucket_count:
        if not plan.checked.is_fresh:
            await _rewrite(plan, progress)
        await _write_superblock(plan.found, plan.after.bucket_count)


async def _rewrite(plan: ResizePlan, progress: Progress) -> None:
    # A prio chain for the larger number of buckets is good for both: a reader goes as far as it needs to.
    larger = max(plan.before, plan.after, key=_bucket_count)
    census, chain = plan.checked.censuses[plan.member], plan.checked.chains[plan.member]
    buckets = EmptyBuckets(census, chain, larger.bucket_count, plan.metadata_end)
    locations, last_seq = _as_now(plan)
    if plan.shrinks:
        locations.root, locations.level = await _write_tree(plan, buckets, progress)
        await _move_volumes(plan, buckets, locations)
        # What the journal's keys say is in the new index.
        last_seq = _newest(plan).seq + 1
    await _write_chain(plan, larger, buckets, locations)
    await append_entry(plan.checked, _next_entry(plan, locations, last_seq))


def _bucket_count(geometry: Geometry) -> int:
    return geometry.bucket_count


def _as_now(plan: ResizePlan) -> tuple[Locations, int]:
    """Returns the locations of all metadata, and the oldest journal entry that is needed."""
    newest = _newest(plan)
    return Locations.named_by(newest), newest.last_seq


def _next_entry(plan: ResizePlan, locations: Locations, last_seq: int) -> JournalEntry:
    return locations.entry(_newest(plan).seq + 1, last_seq)


def _newest(plan: ResizePlan) -> JournalEntry:
    assert plan.checked.journal is not None
    return plan.checked.journal.newest


async def _write_chain(
    plan: ResizePlan, geometry: Geometry, buckets: EmptyBuckets, locations: Locations
) -> None:
    """Write a prio chain for a geometry, and record its head."""
    member = plan.found
    places = [buckets.take(member.path) for _ in range(geometry.prio_bucket_count)]
    (_, newest), *_ = plan.checked.chains[plan.member]
    seq = (newest.seq + 1) & SEQ_MASK
    magic = member.superblock.set_magic
    await write_chain(member.block_device, geometry, magic, seq, places, buckets.prios, buckets.gens)
    locations.prio_heads[plan.member] = places[0]


async def _write_tree(plan: ResizePlan, buckets: EmptyBuckets, progress: Progress) -> tuple[Key, int]:
    """Write the index without what is behind the new end. Returns its root and the root's level."""
    path = plan.found.path

    def take() -> tuple[int, int]:
        bucket = buckets.take(path)
        return bucket, int(buckets.gens[bucket])

    writer = TreeWriter(plan.found, shape_of(plan.found), take)
    reported = 0
    for key in FittingKeys(plan.checked, plan.member, plan.after.bucket_count):
        await writer.add(key)
        if writer.nodes - reported >= NODES_A_REPORT:
            reported = writer.nodes
            progress(reported)
    return await writer.finish()


async def _move_volumes(plan: ResizePlan, buckets: EmptyBuckets, locations: Locations) -> None:
    """Write the table of volumes to another bucket, if it is behind the new end."""
    pointer = locations.uuid_bucket.pointers[0]
    here = pointer.device == plan.member
    if not here or plan.before.bucket_of(pointer.sector) < plan.after.bucket_count:
        return
    table = UuidTable(plan.before, plan.checked.volumes)
    bucket = buckets.take(plan.found.path)
    await plan.found.block_device.write(plan.before.byte_of(bucket), table.pack(table.entries))
    locations.uuid_bucket = table.key_at(plan.member, bucket, int(buckets.gens[bucket]))


async def _write_superblock(member: MemberFound, bucket_count: int) -> None:
    seq = (member.superblock.seq + 1) & SEQ_MASK
    await write_superblock(
        member.block_device, replace(member.superblock, bucket_count=bucket_count, seq=seq)
    )
