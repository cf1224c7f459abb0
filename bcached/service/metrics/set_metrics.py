"""Every metric that Prometheus scrapes, made from one immutable snapshot.

A scrape runs on the event loop, so its values are consistent; nothing is read from another thread. Every
value of a label exists from the start, as 0, so that rates and alerts work from the first minute.
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
    """Turns a snapshot into metrics at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Returns no metrics: registering must not need a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yields every metric."""
        snapshot = self._snapshot()
        yield from member_metrics(snapshot)
        yield from set_metrics(snapshot)
        yield from index_metrics(snapshot)
        yield from activity_metrics(snapshot)
        yield from server_metrics(snapshot)
        yield from process_metrics(snapshot)


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """Returns a registry of the daemon's metrics and the library's process metrics."""
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    own.register(SnapshotCollector(snapshot))
    return own


def set_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the whole set: waiting requests, reservations, failures."""
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
        "bcached_allocation_oldest_wait_seconds",
        "How long the oldest waiting request has waited.",
        uuid,
        it.oldest_wait_s,
    )
    yield gauge("bcached_open_buckets", "Buckets being filled.", uuid, it.open_buckets)
    yield gauge(
        "bcached_open_buckets_gone",
        "Open buckets whose writer's connection is closed.",
        uuid,
        it.open_buckets_gone,
    )
    yield gauge(
        "bcached_open_buckets_idle", "Other open buckets not used for a second.", uuid, it.open_buckets_idle
    )
    yield gauge(
        "bcached_reserved_bytes", "Bytes reserved by clients.", uuid, it.reserved_sectors * SECTOR_BYTES
    )
    yield gauge(
        "bcached_quarantined_holders",
        "Disconnected clients whose buckets are held until they can write no more.",
        uuid,
        it.quarantined_holders,
    )
    yield gauge(
        "bcached_set_failed",
        "1 if a device failed and the set accepts no more changes.",
        uuid,
        bool(it.failed),
    )
    yield counter("bcached_allocated_bytes", "Bytes allocated.", uuid, it.allocated_sectors * SECTOR_BYTES)
    yield counter("bcached_lookups", "Lookups.", uuid, it.lookups)
    yield counter("bcached_lookup_hits", "Lookups that found a key.", uuid, it.lookup_hits)


def index_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the btree."""
    it, uuid = snapshot.cache_set.index, snapshot.cache_set.set_uuid
    yield gauge("bcached_index_levels", "Levels of the btree.", uuid, it.levels)
    yield gauge("bcached_index_memory_bytes", "Memory used by cached leaf nodes.", uuid, it.memory_bytes)
    yield gauge(
        "bcached_index_memory_max_bytes",
        "Limit of the memory for cached leaf nodes.",
        uuid,
        it.memory_bytes_max,
    )
    yield gauge(
        "bcached_index_unwritten_bytes", "Keys in the journal and in no node yet.", uuid, it.unwritten_bytes
    )
    yield from health_metrics(it, uuid)
    yield counter("bcached_index_nodes_read", "Nodes read.", uuid, it.nodes_read)
    yield counter("bcached_index_nodes_written", "Nodes written whole.", uuid, it.nodes_written)
    yield counter("bcached_index_blocks_appended", "Blocks appended to nodes.", uuid, it.blocks_appended)
    yield counter(
        "bcached_moved_bytes",
        "Data copied out of nearly empty buckets, and dirty data compacted.",
        uuid,
        it.moved_sectors * SECTOR_BYTES,
    )
    yield counter(
        "bcached_evacuations",
        "Passes that compacted dirty data because buckets were short.",
        uuid,
        it.evacuations,
    )
    yield counter(
        "bcached_evacuated_buckets",
        "Buckets that compaction left without dirty data.",
        uuid,
        it.evacuated_buckets,
    )


def health_metrics(it: IndexStatistics, uuid: str) -> Iterator[Metric]:
    """Yields counts of keys that no look-up returns, though data may exist; all 0 in a healthy set."""
    yield gauge(
        "bcached_stale_dirty_keys",
        "Dirty keys whose gen is older than the bucket's.",
        uuid,
        it.stale_dirty_keys,
    )
    yield gauge(
        "bcached_stale_dirty_bytes", "Data of stale dirty keys.", uuid, it.stale_dirty_sectors * SECTOR_BYTES
    )
    yield counter(
        "bcached_stale_dirty_keys_dropped",
        "Stale dirty keys that garbage collections dropped.",
        uuid,
        it.stale_dirty_keys_dropped,
    )
    yield gauge("bcached_orphaned_keys", "Keys under inodes without a volume.", uuid, it.orphaned_keys)
    yield gauge("bcached_orphaned_inodes", "Inodes that have keys and no volume.", uuid, it.orphaned_inodes)
    yield gauge(
        "bcached_orphaned_dirty_bytes",
        "Dirty data under inodes without a volume.",
        uuid,
        it.orphaned_dirty_sectors * SECTOR_BYTES,
    )
    yield gauge(
        "bcached_vanished_nodes",
        "Nodes of the btree that were lost and not replaced.",
        uuid,
        it.vanished_nodes,
    )


def activity_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields counts and durations of the set's activities."""
    it = snapshot.cache_set
    uuid = it.set_uuid
    yield by_label(
        CounterMetricFamily,
        "bcached_gc_runs",
        "Garbage collections by cause.",
        uuid,
        "trigger",
        with_zeros(GC_TRIGGERS, it.gc_runs),
    )
    for name, text, histogram in (
        ("bcached_allocation_wait_seconds", "How long allocations that had to wait waited.", it.wait),
        ("bcached_prio_write_duration_seconds", "Writing all prios and gens.", it.prio_write),
        ("bcached_gc_duration_seconds", "A garbage collection, start to end.", it.gc),
        ("bcached_gc_slice_seconds", "For how long garbage collection held the loop.", it.gc_slice),
        ("bcached_journal_write_duration_seconds", "Writing a journal entry.", it.journal_write),
    ):
        family = HistogramMetricFamily(name, text, labels=["uuid"])
        add_histogram(family, [uuid], histogram)
        yield family


def server_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the socket. Durations are kept by powers of two: every second one suffices."""
    uuid, server = snapshot.cache_set.set_uuid, snapshot.server
    yield gauge("bcached_client_connections", "Clients connected.", uuid, server.connections)
    yield gauge(
        "bcached_client_buffer_bytes",
        "Memory of partial requests, waiting requests and unread replies.",
        uuid,
        server.buffer_bytes,
    )
    yield gauge(
        "bcached_client_buffer_limit_bytes",
        "Limit of that memory for all clients together.",
        uuid,
        server.buffer_bytes_max,
    )
    yield counter(
        "bcached_client_give_ways",
        "Clients disconnected because that limit was exceeded.",
        uuid,
        server.gave_way,
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
    """Yields the metrics of the process: its loop, its logs, its build."""
    yield gauge(
        "bcached_event_loop_lag_seconds",
        "The largest delay of a timer of the event loop in the last half minute.",
        snapshot.cache_set.set_uuid,
        snapshot.loop_lag_s,
    )
    messages = CounterMetricFamily("bcached_log_messages", "Messages logged.", labels=["level"])
    for level, count in snapshot.log_messages.items():
        messages.add_metric([level], count)
    yield messages
    uuid = snapshot.cache_set.set_uuid
    yield counter(
        "bcached_log_dropped",
        "Log lines that could not be written to stderr.",
        uuid,
        snapshot.log_lines_dropped,
    )
    yield counter(
        "bcached_log_held_back",
        "Log messages left out by the rate limit.",
        uuid,
        snapshot.log_lines_held_back,
    )
    build = GaugeMetricFamily(
        "bcached_build_info", "1; the labels name the versions.", labels=["version", "python"]
    )
    build.add_metric([bcached.__version__, platform.python_version()], 1)
    yield build
