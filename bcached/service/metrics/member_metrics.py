"""The metrics of each member device: names, help texts, and the values in its statistics."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bcached.service.metrics.families import with_zeros
from bcached.service.statistics import Snapshot
from bcached.state.statistics import BUCKET_STATES, RESERVES, MemberStatistics

POLICIES = ("lru", "fifo", "random")

# Per member device: name, help, value.
MEMBER_GAUGES: tuple[tuple[str, str, Callable[[MemberStatistics], float]], ...] = (
    ("bcached_device_buckets", "Buckets of the device.", lambda member: member.bucket_count),
    ("bcached_device_bucket_size_bytes", "Bytes of a bucket.", lambda member: member.bucket_bytes),
    (
        "bcached_free_inc_buckets",
        "Buckets invalidated, waiting for their gens to be durable.",
        lambda member: member.free_inc,
    ),
    ("bcached_unused_buckets", "Empty buckets, on the unused list.", lambda member: member.unused),
    (
        "bcached_journal_free_buckets",
        "Journal buckets free for new entries.",
        lambda member: member.journal_free_buckets,
    ),
)
MEMBER_COUNTERS: tuple[tuple[str, str, Callable[[MemberStatistics], float]], ...] = (
    ("bcached_bucket_discards", "Buckets discarded before reuse.", lambda member: member.discards),
    ("bcached_prio_writes", "How often all prios and gens were written.", lambda member: member.prio_writes),
    ("bcached_io_errors", "Reads, writes and flushes that failed.", lambda member: member.io_errors),
)
# Per member device with one more label: its name, and the values it always has.
Labelled = tuple[str, str, str, tuple[str, ...], Callable[[MemberStatistics], Mapping[str, float]]]
MEMBER_LABELLED_GAUGES: tuple[Labelled, ...] = (
    ("bcached_buckets", "Buckets by state.", "state", BUCKET_STATES, lambda member: member.buckets),
    (
        "bcached_freelist_buckets",
        "Buckets ready in a reserve.",
        "reserve",
        RESERVES,
        lambda member: member.freelist,
    ),
    (
        "bcached_freelist_capacity_buckets",
        "Buckets a reserve can hold.",
        "reserve",
        RESERVES,
        lambda member: member.freelist_capacity,
    ),
    (
        "bcached_gen_distance_max",
        "The farthest a gen is ahead of the oldest in the index, or of the one on disk.",
        "against",
        ("index", "disk"),
        lambda member: {"index": member.gen_distance_index, "disk": member.gen_distance_disk},
    ),
)
MEMBER_LABELLED_COUNTERS: tuple[Labelled, ...] = (
    (
        "bcached_freelist_empty_seconds",
        "Time a reserve was empty.",
        "reserve",
        RESERVES,
        lambda member: member.freelist_empty_s,
    ),
    (
        "bcached_allocations",
        "Buckets taken from a reserve.",
        "reserve",
        RESERVES,
        lambda member: member.allocations,
    ),
    (
        "bcached_bucket_invalidations",
        "Buckets whose cached data was dropped.",
        "policy",
        POLICIES,
        lambda member: member.invalidations,
    ),
)


def member_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields every metric of every member."""
    uuid = snapshot.cache_set.set_uuid
    members = [(member, [uuid, f"cache{member.device}"]) for member in snapshot.cache_set.members]
    labels = ["uuid", "cache_device"]
    info = GaugeMetricFamily(
        "bcached_device_info", "1; the labels identify the device.", labels=[*labels, "device", "device_uuid"]
    )
    for member, here in members:
        info.add_metric([*here, member.path, member.uuid], 1)
    yield info
    for families, plain in ((GaugeMetricFamily, MEMBER_GAUGES), (CounterMetricFamily, MEMBER_COUNTERS)):
        for name, text, value in plain:
            family = families(name, text, labels=labels)
            for member, here in members:
                family.add_metric(here, value(member))
            yield family
    for families, labelled in (
        (GaugeMetricFamily, MEMBER_LABELLED_GAUGES),
        (CounterMetricFamily, MEMBER_LABELLED_COUNTERS),
    ):
        for name, text, label, known, values in labelled:
            family = families(name, text, labels=[*labels, label])
            for member, here in members:
                for labelled_as, number in with_zeros(known, values(member)).items():
                    family.add_metric([*here, labelled_as], number)
            yield family
