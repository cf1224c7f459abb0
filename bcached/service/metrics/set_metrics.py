# SPDX-License-Identifier: GPL-2.0-only
"""Every metric that Prometheus scrapes, made from one immutable snapshot.

A scrape runs on the event loop, so its values are consistent; nothing is read from another thread. Every
value of a label exists from the start, as 0, so that rates and alerts work from the first minute; except
methods, whose histograms are many series each: those exist from the first call on.
"""

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import bcached
from bcached.index_state import IndexState, VolumeState
from bcached.service.metrics.families import add_histogram, coarser, declared_families, with_zeros
from bcached.service.statistics import ServerStatistics, Snapshot
from bcached.set_state import MemberState
from bcached.state.statistics import SetStatistics

MEMBER_LABELS = ["uuid", "cache_device"]


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
        yield from server_metrics(snapshot)
        yield from process_metrics(snapshot)


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """Returns a registry of the daemon's metrics and the library's process metrics."""
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    own.register(SnapshotCollector(snapshot))
    return own


def member_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields every metric of every member."""
    uuid = snapshot.cache_set.set_uuid
    members = [([uuid, f"cache{member.device}"], member) for member in snapshot.cache_set.members]
    info = GaugeMetricFamily(
        "bcached_device_info",
        "1; the labels identify the device.",
        labels=[*MEMBER_LABELS, "device", "device_uuid"],
    )
    for labels, member in members:
        info.add_metric([*labels, member.path, member.uuid], 1)
    yield info
    yield from declared_families(MemberState, MEMBER_LABELS, members)


def set_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the whole set and of its btree."""
    statistics = snapshot.cache_set
    uuid = [statistics.set_uuid]
    yield from declared_families(SetStatistics, ["uuid"], [(uuid, statistics)])
    yield from declared_families(IndexState, ["uuid"], [(uuid, statistics.index)])
    yield from volume_metrics(statistics)


def volume_metrics(statistics: SetStatistics) -> Iterator[Metric]:
    """Yields the metrics of the volumes that are listed, and of all others together.

    A private volume has no label here: every local user may read the metrics.
    """
    uuid = statistics.set_uuid
    info = GaugeMetricFamily(
        "bcached_volume_info", "1; the labels name the volume.", labels=["uuid", "inode", "label", "kind"]
    )
    for inode, volume in statistics.volumes.items():
        label = "" if volume.private else volume.label
        info.add_metric([uuid, inode, label, "flash-only" if volume.flash_only else "cached"], 1)
    yield info
    volumes = [([uuid, inode], volume) for inode, volume in statistics.volumes.items()]
    yield from declared_families(VolumeState, ["uuid", "inode"], volumes)


def server_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the socket. Durations are kept by powers of two: every second one suffices."""
    uuid, server = snapshot.cache_set.set_uuid, snapshot.server
    yield from declared_families(ServerStatistics, ["uuid"], [([uuid], server)])
    errors = CounterMetricFamily(
        "bcached_rpc_errors", "Requests answered with an error.", labels=["uuid", "method"]
    )
    for method, count in with_zeros(server.requests, server.errors).items():
        errors.add_metric([uuid, method], count)
    yield errors
    durations = HistogramMetricFamily(
        "bcached_rpc_duration_seconds", "From request to reply.", labels=["uuid", "method"]
    )
    for method, histogram in server.durations.items():
        add_histogram(durations, [uuid, method], coarser(histogram))
    yield durations


def process_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of the process: its loop, its logs, its build."""
    yield from declared_families(Snapshot, ["uuid"], [([snapshot.cache_set.set_uuid], snapshot)])
    messages = CounterMetricFamily("bcached_log_messages", "Messages logged.", labels=["level"])
    for level, count in snapshot.log_messages.items():
        messages.add_metric([level], count)
    yield messages
    build = GaugeMetricFamily(
        "bcached_build_info", "1; the labels name the versions.", labels=["version", "python"]
    )
    build.add_metric([bcached.__version__, platform.python_version()], 1)
    yield build
