# SPDX-License-Identifier: GPL-2.0-only
"""The statistics of a set, collected at one instant from their counters."""

from collections.abc import Sequence

from bcached.format.bkey import WORD_BYTES
from bcached.index_state import IndexState
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.runtime.index.touches import Touches
from bcached.runtime.sectors.allocations import Allocations
from bcached.runtime.tasks.task_set import Tasks
from bcached.runtime.volume_figures import buckets_held, dirty_by_inode, largest_holders, volume_states
from bcached.set_state import MemberState
from bcached.state.accounting.index_health import IndexHealth
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.last_resort import abandoned, idle
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import OrphanStatistics, SetStatistics
from bcached.store.journal.journal import Journal
from bcached.store.member import Member
from bcached.store.uuid_table import VolumeInfo
from bcached.units import SECTOR_BYTES

ORPHANS_LISTED = 8  # each is reported in its own sentence


def take_snapshot(
    members: list[Member],
    journal: Journal,
    sectors: SectorAllocator,
    index: Index,
    touches: Touches,
    allocations: Allocations,
    volumes: Sequence[VolumeInfo],
    shared: Shared,
    tasks: Tasks,
    *,
    failed: str | None,
) -> SetStatistics:
    """Returns a frozen record of the set's counters and levels, in time independent of the bucket count."""
    superblock, collector = members[0].superblock, tasks.garbage_collector
    marker, reads = collector.marker, index.reads.total()
    return SetStatistics(
        set_uuid=str(superblock.set_uuid),
        replacement=superblock.replacement.name.lower(),
        discard=superblock.discard,
        synchronous=shared.options.synchronous,
        failed=failed,
        members=tuple(_member(member, journal, index) for member in members),
        waiters={reserve.name.lower(): shared.queue.count(reserve) for reserve in Reserve},
        oldest_wait_s=shared.queue.oldest_wait_s(),
        allocation_failures=dict(shared.queue.failures),
        allocated_sectors=sectors.allocated_sectors,
        open_buckets=sectors.open_buckets.open_count,
        open_buckets_gone=sum(1 for _ in abandoned(sectors)),
        open_buckets_idle=sum(1 for _ in idle(sectors, shared.clock())),
        holders=len(allocations.holders),
        quarantined_holders=len(allocations.quarantine),
        held_buckets=buckets_held(allocations, collector.mover),
        reserved_sectors=sectors.reserved_sectors,
        gc_runs=dict(shared.collections.runs),
        gc_running=shared.collections.is_marking,
        gc_found=dict(marker.found),
        dirty_sectors=dirty_by_inode(index),
        volumes=volume_states(volumes, index),
        sectors_to_gc=shared.collections.sectors_to_next,
        gc_requested=shared.collections.wanted is not None,
        gc_interval_sectors=shared.collections.interval_sectors,
        gc_pointers=marker.found.get("pointers", 0),
        gc_stale_pointers=marker.found.get("stale_pointers", 0),
        gc_leaves_rewritten=collector.stale_keys.leaves_rewritten,
        gc_nodes_saved=collector.nodes_saved,
        min_prio=shared.prios.min_prio,
        journal_seq=journal.seq,
        index=_index(index, tasks),
        lookups=reads.lookups,
        lookup_hits=reads.hits,
        lookup_sectors=reads.sectors,
        lookup_hit_sectors=reads.hit_sectors,
        client_hits=touches.hits,
        client_misses=touches.misses,
        client_hit_bytes=touches.hit_bytes,
        checksum_errors=dict(index.nodes.io.report.checksum_errors),
        wait=shared.queue.waits.copy(),
        prio_write=tasks.prio_writer.durations.copy(),
        gc=collector.durations.copy(),
        gc_slice=shared.slices.copy(),
        journal_write=journal.durations.copy(),
        evicted_idle=tasks.prio_writer.evictions.ages.copy(),
        waiters_of_largest_user=shared.queue.most_of_a_user,
        waiters_max=shared.queue.limit,
        held_by_largest_user=allocations.shares.most_of_a_user,
        orphans=orphans_of(index.health)[:ORPHANS_LISTED],
        largest_holders=largest_holders(allocations),
        largest_waiters=shared.queue.largest_waiters,
    )


def orphans_of(health: IndexHealth) -> tuple[OrphanStatistics, ...]:
    """Returns the orphans, those with the most dirty sectors first."""
    orphans = [
        OrphanStatistics(inode, orphan.keys, orphan.dirty_sectors, orphan.clean_sectors)
        for inode, orphan in health.tally.orphans.items()
    ]
    return tuple(sorted(orphans, key=lambda orphan: (-orphan.dirty_sectors, -orphan.keys, orphan.inode)))


def _index(index: Index, tasks: Tasks) -> IndexState:
    nodes, health = index.nodes, index.health
    tree, io, tally = nodes.tree, nodes.io, health.tally
    orphaned = tally.orphaned
    return IndexState(
        levels=tree.root.level + 1,
        leaves=len(tree.leaves),
        memory_bytes=tree.leaves.memory_bytes,
        memory_bytes_max=nodes.limit_bytes,
        unwritten_bytes=tree.leaves.unwritten_words * WORD_BYTES,
        nodes_read=io.nodes_read,
        nodes_written=io.nodes_written,
        blocks_appended=io.blocks_appended,
        moved_sectors=tasks.garbage_collector.mover.moved_sectors,
        evacuations=tasks.garbage_collector.evacuator.totals.rounds,
        evacuated_buckets=tasks.garbage_collector.evacuator.totals.emptied_buckets,
        stale_dirty_keys=tally.stale_dirty_keys,
        stale_dirty_sectors=tally.stale_dirty_sectors,
        stale_dirty_keys_dropped=health.dropped_keys,
        orphaned_inodes=tally.orphaned_inodes,
        orphaned_keys=orphaned.keys,
        orphaned_dirty_sectors=orphaned.dirty_sectors,
        orphaned_clean_sectors=orphaned.clean_sectors,
        vanished_nodes=health.vanished_nodes,
        waiting_keys=tree.leaves.waiting.keys,
    )


def _written(member: Member, index: Index) -> dict[str, int]:
    """Returns the bytes written to a member by cause, those of the clients' data as committed."""
    data_bytes = index.committed_sectors[member.device] * SECTOR_BYTES
    return {**member.written_bytes, "data": data_bytes, "nodes": index.nodes.io.written_bytes[member.device]}


def _member(member: Member, journal: Journal, index: Index) -> MemberState:
    buckets = member.buckets
    reserves, table = buckets.reserves, buckets.table
    return MemberState(
        device=member.device,
        path=member.path,
        uuid=member.uuid,
        bucket_count=buckets.geometry.bucket_count,
        bucket_bytes=buckets.geometry.bucket_bytes,
        buckets={state.name.lower(): table.counts[state] for state in State},
        freelist={reserve.name.lower(): reserves.count(reserve) for reserve in Reserve},
        freelist_capacity={reserve.name.lower(): reserves.capacities[reserve] for reserve in Reserve},
        freelist_empty_s={reserve.name.lower(): reserves.empty_seconds(reserve) for reserve in Reserve},
        free_inc=len(buckets.free_inc),
        free_inc_capacity=buckets.geometry.free_inc_capacity,
        unused=len(buckets.unused),
        unused_capacity=buckets.geometry.unused_capacity,
        allocations={reserve.name.lower(): reserves.taken[reserve] for reserve in Reserve},
        invalidations={policy.name.lower(): count for policy, count in buckets.invalidated.items()},
        discards=buckets.discarded,
        prio_writes=buckets.prio_chains.writes,
        gen_distance_index=table.distance_index,
        gen_distance_disk=table.distance_disk,
        held_back_by_gen=buckets.held_back,
        journal_free_buckets=journal.free_buckets(member),
        journal_bucket_count=buckets.geometry.journal_bucket_count,
        invalidate_needs_gc=buckets.invalidate_needs_gc,
        io_errors=member.block_device.errors,
        gen_distance_limit=GEN_DISTANCE_MAX,
        live_sectors=table.sectors_total,
        dirty_sectors=table.dirty_sectors_total,
        written_bytes=_written(member, index),
    )
