"""What Prometheus scrapes: every metric, made from one immutable snapshot, and never counted a second time.

A scrape runs on the event loop, so what it reads belongs together; nothing is read from another thread. Every
value a label can have is there from the start, as 0, so that rates and alerts work from the first minute.
"""

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import bcached
from bcached.service.metrics.families import add_histogram, by_label, coarser, counter, gauge, with_zeros
from bcached.service.metrics.member_metrics import member_metrics
from bcached.service.statistics import Snapshot
from bcached.state.statistics import RESERVES, IndexStatistics
from bcached.units import SECTOR_BYTES

FAILURE_REASONS = ("timeout", "no_wait", "limit", "cancelled")
GC_TRIGGERS = ("dry", "gens", "traffic", "asked")
CHECKED_STRUCTURES = ("superblock", "jset", "prio_set", "bset", "uuid")


class SnapshotCollector(Collector):
    """Turns a snapshot into metrics, once a scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not need a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of the contract."""
        snapshot = self._snapshot()
        yield from member_metrics(snapshot)
        yield from set_metrics(snapshot)
        yield from index_metrics(snapshot)
        yield from activity_metrics(snapshot)
        yield from server_metrics(snapshot)
        yield from process_metrics(snapshot)


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """A registry of our own, with what Linux knows of the process beside what we know."""
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    own.register(SnapshotCollector(snapshot))
    return own


def set_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """The set as a whole: who waits, and what it holds."""
    it = snapshot.cache_set
    uuid = it.set_uuid
    yield by_label(
        GaugeMetricFamily,
        "bcached_allocation_waiters",
        "Requests waiting for a bucket.",
        uuid,
        "reserve",
        with_zeros(RESERVES, it.waiters),
    )
    yield by_label(
        CounterMetricFamily,
        "bcached_allocation_failures",
        "Allocations refused.",
        uuid,
        "reason",
        with_zeros(FAILURE_REASONS, it.allocation_failures),
    )
    yield by_label(
        CounterMetricFamily,
        "bcached_checksum_errors",
        "Structures on disk whose checksum was wrong.",
        uuid,
        "structure",
        with_zeros(CHECKED_STRUCTURES, it.checksum_errors),
    )
    yield gauge(
        "bcached_allocation_oldest_wait_seconds", "How long the oldest waits.", uuid, it.oldest_wait_s
    )
    yield gauge("bcached_open_buckets", "Buckets being filled.", uuid, it.open_buckets)
    yield gauge(
        "bcached_open_buckets_gone", "Those whose writer's connection is closed.", uuid, it.open_buckets_gone
    )
    yield gauge("bcached_open_buckets_idle", "Others not used for a second.", uuid, it.open_buckets_idle)
    yield gauge(
        "bcached_reserved_bytes", "Bytes reserved by clients.", uuid, it.reserved_sectors * SECTOR_BYTES
    )
    yield gauge(
        "bcached_quarantined_holders",
        "Clients gone whose buckets wait until they can write no more.",
        uuid,
        it.quarantined_holders,
    )
    yield gauge(
        "bcached_set_failed", "1 when a device failed and nothing changes any more.", uuid, bool(it.failed)
    )
    yield counter("bcached_allocated_bytes", "Bytes handed out.", uuid, it.allocated_sectors * SECTOR_BYTES)
    yield counter("bcached_lookups", "Lookups.", uuid, it.lookups)
    yield counter("bcached_lookup_hits", "Lookups that found a key.", uuid, it.lookup_hits)


def index_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """The keys' nodes."""
    it, uuid = snapshot.cache_set.index, snapshot.cache_set.set_uuid
    yield gauge("bcached_index_levels", "Levels of the btree.", uuid, it.levels)
    yield gauge("bcached_index_memory_bytes", "Memory that leaves take.", uuid, it.memory_bytes)
    yield gauge("bcached_index_memory_max_bytes", "What they may take.", uuid, it.memory_bytes_max)
    yield gauge(
        "bcached_index_unwritten_bytes", "Keys in the journal and in no node yet.", uuid, it.unwritten_bytes
    )
    yield from health_metrics(it, uuid)
    yield counter("bcached_index_nodes_read", "Nodes read.", uuid, it.nodes_read)
    yield counter("bcached_index_nodes_written", "Nodes written whole.", uuid, it.nodes_written)
    yield counter("bcached_index_blocks_appended", "Blocks appended to nodes.", uuid, it.blocks_appended)
    yield counter(
        "bcached_moved_bytes",
        "Data copied out of nearly empty buckets, and dirty data moved together.",
        uuid,
        it.moved_sectors * SECTOR_BYTES,
    )
    yield counter(
        "bcached_evacuations",
        "Rounds of moving dirty data together, for want of buckets.",
        uuid,
        it.evacuations,
    )
    yield counter(
        "bcached_evacuated_buckets", "Buckets that this left without dirty data.", uuid, it.evacuated_buckets
    )


def health_metrics(it: IndexStatistics, uuid: str) -> Iterator[Metric]:
    """What no look-up finds, though its data may be there still; all 0 in a set that is well."""
    yield gauge(
        "bcached_stale_dirty_keys",
        "Dirty keys whose bucket's gen has gone ahead.",
        uuid,
        it.stale_dirty_keys,
    )
    yield gauge("bcached_stale_dirty_bytes", "What those name.", uuid, it.stale_dirty_sectors * SECTOR_BYTES)
    yield counter(
        "bcached_stale_dirty_keys_dropped",
        "Such keys that garbage collections dropped.",
        uuid,
        it.stale_dirty_keys_dropped,
    )
    yield gauge("bcached_orphaned_keys", "Keys under inodes without a volume.", uuid, it.orphaned_keys)
    yield gauge("bcached_orphaned_inodes", "Such inodes.", uuid, it.orphaned_inodes)
    yield gauge(
        "bcached_orphaned_dirty_bytes",
        "Dirty data under inodes without a volume.",
        uuid,
        it.orphaned_dirty_sectors * SECTOR_BYTES,
    )
    yield gauge(
        "bcached_vanished_nodes",
        "Nodes of the btree that are gone, and were not replaced.",
        uuid,
        it.vanished_nodes,
    )


def activity_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """How long things take."""
    it = snapshot.cache_set
    uuid = it.set_uuid
    yield by_label(
        CounterMetricFamily,
        "bcached_gc_runs",
        "Garbage collections by what caused them.",
        uuid,
        "trigger",
        with_zeros(GC_TRIGGERS, it.gc_runs),
    )
    for name, text, histogram in (
        ("bcached_allocation_wait_seconds", "How long allocations that had to wait waited.", it.wait),
        ("bcached_prio_write_duration_seconds", "Writing all prios and gens.", it.prio_write),
        ("bcached_gc_duration_seconds", "A garbage collection, begin to end.", it.gc),
        ("bcached_gc_slice_seconds", "For how long garbage collection held the loop.", it.gc_slice),
        ("bcached_journal_write_duration_seconds", "Writing a journal entry.", it.journal_write),
    ):
        family = HistogramMetricFamily(name, text, labels=["uuid"])
        add_histogram(family, [uuid], histogram)
        yield family


def server_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """The socket and its methods. Durations come by powers of two: every second one is enough to scrape."""
    uuid, server = snapshot.cache_set.set_uuid, snapshot.server
    yield gauge("bcached_client_connections", "Clients connected.", uuid, server.connections)
    yield gauge("bcached_client_buffer_bytes", "Half-sent, waiting and unread.", uuid, server.buffer_bytes)
    yield gauge(
        "bcached_client_buffer_limit_bytes",
        "What all clients together may take of memory for that.",
        uuid,
        server.buffer_bytes_max,
    )
    yield counter(
        "bcached_client_give_ways", "Clients that were cut off when that was too much.", uuid, server.gave_way
    )
    yield by_label(CounterMetricFamily, "bcached_rpc_requests", "Requests.", uuid, "method", server.requests)
    yield by_label(
        CounterMetricFamily,
        "bcached_rpc_errors",
        "Requests answered with an error.",
        uuid,
        "method",
        with_zeros(server.requests, server.errors),
    )
    durations = HistogramMetricFamily(
        "bcached_rpc_duration_seconds", "From request to reply.", labels=["uuid", "method"]
    )
    for method, histogram in server.durations.items():
        add_histogram(durations, [uuid, method], coarser(histogram))
    yield durations


def process_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """The process: its loop, its logs, its build."""
    yield gauge(
        "bcached_event_loop_lag_seconds",
        "The latest the event loop was for an appointment in the last half minute.",
        snapshot.cache_set.set_uuid,
        snapshot.loop_lag_s,
    )
    messages = CounterMetricFamily("bcached_log_messages", "Messages logged.", labels=["level"])
    for level, count in snapshot.log_messages.items():
        messages.add_metric([level], count)
    yield messages
    uuid = snapshot.cache_set.set_uuid
    yield counter(
        "bcached_log_dropped", "Log lines that stderr did not take.", uuid, snapshot.log_lines_dropped
    )
    yield counter(
        "bcached_log_held_back",
        "Messages left out, since there were many alike.",
        uuid,
        snapshot.log_lines_held_back,
    )
    build = GaugeMetricFamily("bcached_build_info", "1, and what runs.", labels=["version", "python"])
    build.add_metric([bcached.__version__, platform.python_version()], 1)
    yield build
