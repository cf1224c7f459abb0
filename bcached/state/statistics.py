"""Frozen records of the set's statistics: all that metrics, status and explain read.

The counters are plain integers in the components that count; a snapshot copies them into these records.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

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

WAIT_BOUNDS_S = (1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0)
WRITE_BOUNDS_S = (2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 2.5)
SLICE_BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2)


@dataclass(slots=True)
class Histogram:
    """Counts of observations by upper bound, in seconds; the last count is of all above."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds_s) + 1)

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> "Histogram":
        """A copy that later observations do not change."""
        return Histogram(self.bounds_s, list(self.counts), self.sum_s)


@dataclass(frozen=True, slots=True)
class MemberStatistics:
    """One member device of the set."""

    device: int
    path: str
    uuid: str
    bucket_count: int
    bucket_bytes: int
    buckets: dict[str, int]  # by state; they sum to bucket_count
    freelist: dict[str, int]  # by reserve, in buckets
    freelist_capacity: dict[str, int]
    freelist_empty_s: dict[str, float]
    free_inc: int
    free_inc_capacity: int
    unused: int
    unused_capacity: int
    allocations: dict[str, int]  # by reserve
    invalidations: dict[str, int]  # by policy
    discards: int
    prio_writes: int
    gen_distance_index: int
    gen_distance_disk: int
    held_back_by_gen: int  # buckets the last invalidation skipped for their gen distance
    journal_free_buckets: int
    journal_bucket_count: int
    invalidate_needs_gc: bool
    io_errors: int


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """The set's keys and the nodes they are kept in."""

    levels: int
    leaves: int  # in memory
    memory_bytes: int
    memory_bytes_max: int
    unwritten_bytes: int  # of keys that are in the journal and in no node
    nodes_read: int
    nodes_written: int  # whole
    blocks_appended: int
    moved_sectors: int  # by moving garbage collection, and by evacuations
    evacuations: int
    evacuated_buckets: int
    # What no look-up finds, counted by the opening or the last collection: see index_health.py.
    stale_dirty_keys: int = 0
    stale_dirty_sectors: int = 0
    stale_dirty_keys_dropped: int = 0  # by collections of this run
    orphaned_inodes: int = 0
    orphaned_keys: int = 0
    orphaned_dirty_sectors: int = 0
    orphaned_clean_sectors: int = 0
    vanished_nodes: int = 0


@dataclass(frozen=True, slots=True)
class OrphanStatistics:
    """Keys under an inode without a volume."""

    inode: int
    keys: int
    dirty_sectors: int
    clean_sectors: int


@dataclass(frozen=True, slots=True)
class SetStatistics:
    """The whole set at one instant."""

    set_uuid: str
    replacement: str
    discard: bool
    synchronous: bool
    failed: str | None
    members: tuple[MemberStatistics, ...]
    waiters: dict[str, int]  # by reserve
    oldest_wait_s: float
    allocation_failures: dict[str, int]  # by reason: timeout, no_wait, limit, cancelled
    allocated_sectors: int
    open_buckets: int
    open_buckets_gone: int  # of closed connections
    open_buckets_idle: int  # of other writers that have not used them for a second
    holders: int
    quarantined_holders: int
    reserved_sectors: int
    gc_runs: dict[str, int]  # by trigger: dry, traffic, asked
    gc_running: bool
    gc_found: dict[str, int]  # counted by the last collection
    dirty_sectors: dict[str, int]  # by inode, on the devices, counted by the last collection
    gc_marks_valid: bool
    sectors_to_gc: int
    min_prio: int
    journal_seq: int
    index: IndexStatistics
    lookups: int
    lookup_hits: int
    checksum_errors: dict[str, int]  # by structure
    wait: Histogram
    prio_write: Histogram
    gc: Histogram
    gc_slice: Histogram
    journal_write: Histogram
    orphans: tuple[OrphanStatistics, ...] = ()  # those with the most dirty sectors, in that order
