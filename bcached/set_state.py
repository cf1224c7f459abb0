# SPDX-License-Identifier: MIT
"""The state of a set: every figure declared once, with its unit, its metric and the metric's help text.

Status and Watch of the socket return these records as they are; service/metrics exposes the fields that have
a metric; the types of the .varlink files, and their comments, are generated from them (`make interfaces`).
runtime/snapshot.py fills them.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Struct, field

from bcached.index_state import IndexState, VolumeState
from bcached.metric import counter, gauge
from bcached.units import SECTOR_BYTES


class Replacement(IntEnum):
    """Which buckets of cached data are invalidated first. Numbered as in the superblock."""

    LRU = 0
    FIFO = 1
    RANDOM = 2


BUCKET_STATES = (
    "reserved",
    "journal",
    "prio",
    "btree",
    "uuid",
    "free",
    "free_inc",
    "unused",
    "open",
    "held",
    "quarantine",
    "clean",
    "dirty",
    "empty",
)
RESERVES = ("btree", "prio", "movinggc", "none")
HOLDER_ROLES = ("none", "reader", "allocator", "admin", "gc", "quarantine")
WRITE_CAUSES = ("data", "moved", "nodes", "journal", "prios", "uuids")
POLICY_NAMES = tuple(policy.name.lower() for policy in Replacement)
FAILURE_REASONS = ("timeout", "no_wait", "limit", "cancelled")
GC_TRIGGERS = ("dry", "gens", "traffic", "asked")
CHECKED_STRUCTURES = ("superblock", "jset", "prio_set", "bset")  # the uuid table has no checksum


# These records have as many fields as there are figures: each is one line of Status, and they have no rules.


class MemberState(Struct, frozen=True, gc=False):
    """One member device.

    Maps go by bucket state, by reserve (btree, prio, movinggc, none) or by policy.
    """

    device: int
    path: str
    uuid: str
    bucket_count: Annotated[int, gauge("bcached_device_buckets", "Buckets of the device.")]
    bucket_bytes: Annotated[int, gauge("bcached_device_bucket_size_bytes", "Bytes of a bucket.")]
    # By state; they sum to bucket_count.
    buckets: Annotated[
        dict[str, int],
        gauge("bcached_buckets", "Buckets by state.", label="state", known=BUCKET_STATES),
    ]
    freelist: Annotated[
        dict[str, int],
        gauge("bcached_freelist_buckets", "Buckets ready in a reserve.", label="reserve", known=RESERVES),
    ]
    freelist_capacity: Annotated[
        dict[str, int],
        gauge(
            "bcached_freelist_capacity_buckets",
            "Buckets a reserve can hold.",
            label="reserve",
            known=RESERVES,
        ),
    ]
    freelist_empty_s: Annotated[
        dict[str, float],
        counter(
            "bcached_freelist_empty_seconds", "Time a reserve was empty.", label="reserve", known=RESERVES
        ),
    ]
    free_inc: Annotated[
        int,
        gauge("bcached_free_inc_buckets", "Buckets invalidated, waiting for their gens to be durable."),
    ]
    free_inc_capacity: Annotated[
        int, gauge("bcached_free_inc_capacity_buckets", "Invalidated buckets that can wait.")
    ]
    unused: Annotated[int, gauge("bcached_unused_buckets", "Empty buckets, on the unused list.")]
    unused_capacity: Annotated[
        int, gauge("bcached_unused_capacity_buckets", "Buckets that the unused list can hold.")
    ]
    allocations: Annotated[
        dict[str, int],
        counter("bcached_allocations", "Buckets taken from a reserve.", label="reserve", known=RESERVES),
    ]
    invalidations: Annotated[
        dict[str, int],
        counter(
            "bcached_bucket_invalidations",
            "Buckets whose cached data was dropped.",
            label="policy",
            known=POLICY_NAMES,
        ),
    ]
    discards: Annotated[int, counter("bcached_bucket_discards", "Buckets discarded before reuse.")]
    prio_writes: Annotated[int, counter("bcached_prio_writes", "How often all prios and gens were written.")]
    # The most that a gen is ahead of the oldest in the index, and of the one on disk.
    gen_distance_index: Annotated[
        int,
        gauge(
            "bcached_gen_distance_max",
            "The farthest a gen is ahead of the oldest in the index, or of the one on disk.",
            label="against",
            value="index",
        ),
    ]
    gen_distance_disk: Annotated[
        int,
        gauge(
            "bcached_gen_distance_max",
            "The farthest a gen is ahead of the oldest in the index, or of the one on disk.",
            label="against",
            value="disk",
        ),
    ]
    # Buckets the last invalidation skipped for their gen distance.
    held_back_by_gen: Annotated[
        int,
        gauge(
            "bcached_held_back_by_gen_buckets",
            "Buckets that the last invalidation skipped, as their gens are at the limit.",
        ),
    ]
    journal_free_buckets: Annotated[
        int, gauge("bcached_journal_free_buckets", "Journal buckets free for new entries.")
    ]
    journal_bucket_count: Annotated[int, gauge("bcached_journal_buckets", "Journal buckets in all.")]
    # The last invalidation found too few buckets.
    invalidate_needs_gc: Annotated[
        bool, gauge("bcached_invalidate_needs_gc", "1 if the last invalidation found too few buckets.")
    ]
    io_errors: Annotated[int, counter("bcached_io_errors", "Reads, writes and flushes that failed.")]
    # A daemon that does not count these yet gives 0.
    gen_distance_limit: Annotated[
        int,
        gauge("bcached_gen_distance_limit", "The distance at which a gen rises no more (see _max)."),
    ] = 0
    live_sectors: Annotated[
        int, gauge("bcached_live_bytes", "Data that keys name, in each copy.", unit=SECTOR_BYTES)
    ] = 0
    dirty_sectors: Annotated[
        int, gauge("bcached_dirty_bytes", "Those of it that are stored nowhere else.", unit=SECTOR_BYTES)
    ] = 0
    written_bytes: Annotated[
        dict[str, int],
        counter(
            "bcached_written_bytes",
            "Bytes written to the device since the start; data is what clients committed.",
            label="cause",
            known=WRITE_CAUSES,
        ),
    ] = field(default_factory=dict)


class SetState(Struct, frozen=True, gc=False):
    """The set at one instant.

    open_buckets includes those of disconnected writers (gone) and of idle ones. failed is the reason why
    the set accepts no more changes, if so. dirty_sectors are those on the devices by inode, of the inodes
    with the most. volumes are by inode: at most 64 of them, and "others" for all others together.
    held_buckets are by the role of the peer that holds them; gc is the moving garbage collector.
    checksum_errors counts structures read since the start whose checksum was wrong; a write that a power
    cut interrupted leaves such, too.
    """

    set_uuid: str
    replacement: str
    discard: bool
    synchronous: bool
    failed: Annotated[
        str | None,
        gauge("bcached_set_failed", "1 if a device failed and the set accepts no more changes."),
    ]
    members: tuple[MemberState, ...]
    waiters: Annotated[
        dict[str, int],
        gauge(
            "bcached_allocation_waiters",
            "Requests waiting for a bucket.",
            label="reserve",
            known=RESERVES,
        ),
    ]
    oldest_wait_s: Annotated[
        float,
        gauge(
            "bcached_allocation_oldest_wait_seconds",
            "How long the oldest waiting request has waited.",
        ),
    ]
    allocation_failures: Annotated[
        dict[str, int],
        counter(
            "bcached_allocation_failures",
            "Allocations refused.",
            label="reason",
            known=FAILURE_REASONS,
        ),
    ]
    allocated_sectors: Annotated[
        int, counter("bcached_allocated_bytes", "Bytes allocated.", unit=SECTOR_BYTES)
    ]
    open_buckets: Annotated[int, gauge("bcached_open_buckets", "Buckets being filled.")]
    open_buckets_gone: Annotated[
        int,
        gauge("bcached_open_buckets_gone", "Open buckets whose writer's connection is closed."),
    ]
    open_buckets_idle: Annotated[
        int, gauge("bcached_open_buckets_idle", "Other open buckets not used for a second.")
    ]
    holders: int
    quarantined_holders: Annotated[
        int,
        gauge(
            "bcached_quarantined_holders",
            "Disconnected clients whose buckets are held until they can write no more.",
        ),
    ]
    reserved_sectors: Annotated[
        int, gauge("bcached_reserved_bytes", "Bytes reserved by clients.", unit=SECTOR_BYTES)
    ]
    gc_runs: Annotated[
        dict[str, int],
        counter("bcached_gc_runs", "Garbage collections by cause.", label="trigger", known=GC_TRIGGERS),
    ]
    gc_running: Annotated[bool, gauge("bcached_gc_running", "1 while a garbage collection marks.")]
    gc_found: dict[str, int]  # counted by the last collection
    dirty_sectors: dict[str, int]
    # Sectors of new data until traffic triggers a collection.
    sectors_to_gc: Annotated[
        int,
        gauge(
            "bcached_gc_due_bytes",
            "New data until the next garbage collection; negative if it is overdue.",
            unit=SECTOR_BYTES,
        ),
    ]
    min_prio: int
    journal_seq: int
    index: IndexState
    lookups: Annotated[int, counter("bcached_lookups", "Lookups.")]
    lookup_hits: Annotated[int, counter("bcached_lookup_hits", "Lookups that found a key.")]
    checksum_errors: Annotated[
        dict[str, int],
        counter(
            "bcached_checksum_errors",
            "Structures on disk whose checksum was wrong.",
            label="structure",
            known=CHECKED_STRUCTURES,
        ),
    ]
    # What clients counted of reads without a look-up (Touch); a daemon that did not count these yet gives 0.
    client_hits: Annotated[
        int, counter("bcached_client_hits", "Reads that clients served from places they knew.")
    ] = 0
    client_misses: Annotated[int, counter("bcached_client_misses", "Reads that clients did not serve.")] = 0
    client_hit_bytes: Annotated[
        int, counter("bcached_client_hit_bytes", "Bytes of the reads that clients served.")
    ] = 0
    gc_requested: Annotated[
        bool, gauge("bcached_gc_requested", "1 if a garbage collection is requested and has not begun.")
    ] = False
    gc_interval_sectors: Annotated[
        int,
        gauge(
            "bcached_gc_interval_bytes",
            "New data after which garbage is collected at the latest.",
            unit=SECTOR_BYTES,
        ),
    ] = 0
    gc_pointers: Annotated[
        int, gauge("bcached_gc_pointers", "Pointers that the last garbage collection marked.")
    ] = 0
    gc_stale_pointers: Annotated[
        int, gauge("bcached_gc_stale_pointers", "Those of them that were stale.")
    ] = 0
    gc_leaves_rewritten: Annotated[
        int, counter("bcached_gc_leaves_rewritten", "Leaves that collections rewrote without stale keys.")
    ] = 0
    gc_nodes_saved: Annotated[
        int, counter("bcached_gc_nodes_saved", "Nodes that collections gained by merging.")
    ] = 0
    lookup_sectors: Annotated[int, counter("bcached_lookup_bytes", "Bytes looked up.", unit=SECTOR_BYTES)] = 0
    lookup_hit_sectors: Annotated[
        int, counter("bcached_lookup_hit_bytes", "Bytes that lookups found.", unit=SECTOR_BYTES)
    ] = 0
    held_buckets: Annotated[
        dict[str, int],
        gauge(
            "bcached_client_held_buckets",
            "Buckets that connections hold sectors of, or read.",
            label="role",
            known=HOLDER_ROLES,
        ),
    ] = field(default_factory=dict)
    volumes: dict[str, VolumeState] = field(default_factory=dict)
