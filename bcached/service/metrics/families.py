"""Prometheus metric families of one set: gauges, counters and histograms."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from bcached.state.statistics import Histogram

GaugeOrCounter = type[GaugeMetricFamily] | type[CounterMetricFamily]


def with_zeros(known: Iterable[str], values: Mapping[str, float]) -> dict[str, float]:
    """Returns the values, and 0 for every known label that has none."""
    return {**dict.fromkeys(known, 0), **values}


def gauge(name: str, text: str, uuid: str, value: float) -> Metric:
    """Returns one gauge of the set."""
    family = GaugeMetricFamily(name, text, labels=["uuid"])
    family.add_metric([uuid], value)
    return family


def counter(name: str, text: str, uuid: str, value: float) -> Metric:
    """Returns one counter of the set; the library adds _total to its name."""
    family = CounterMetricFamily(name, text, labels=["uuid"])
    family.add_metric([uuid], value)
    return family


def by_label(
    families: GaugeOrCounter,
    name: str,
    text: str,
    uuid: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    """Returns a gauge or counter of the set with one more label."""
    family = families(name, text, labels=["uuid", label])
    for labelled_as, number in values.items():
        family.add_metric([uuid, labelled_as], number)
    return family


def add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    """Add a histogram in Prometheus's form: cumulative counts, the last one for all observations."""
    bounds = [*map(floatToGoString, histogram.bounds_s), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum_s)


def coarser(histogram: Histogram) -> Histogram:
    """Returns the histogram with each two buckets merged into one."""
    counts, *beyond = histogram.counts[:-1], histogram.counts[-1]
    kept = [sum(counts[index : index + 2]) for index in range(0, len(counts), 2)]
    bounds = histogram.bounds_s[1::2] + histogram.bounds_s[-1:] * (len(counts) % 2)
    return Histogram(bounds, [*kept, *beyond], histogram.sum_s)
