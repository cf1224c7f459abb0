"""Prometheus families of one set: a gauge, a counter, a histogram, in the words the metrics need."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from bcached.state.statistics import Histogram

GaugeOrCounter = type[GaugeMetricFamily] | type[CounterMetricFamily]


def with_zeros(known: Iterable[str], values: Mapping[str, float]) -> dict[str, float]:
    """The values, and 0 for every known label they leave out."""
    return {**dict.fromkeys(known, 0), **values}


def gauge(name: str, text: str, uuid: str, value: float) -> Metric:
    """One gauge of the set."""
    family = GaugeMetricFamily(name, text, labels=["uuid"])
    family.add_metric([uuid], value)
    return family


def counter(name: str, text: str, uuid: str, value: float) -> Metric:
    """One counter of the set; _total is added to its name."""
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
    """A gauge or counter of the set with one label more."""
    family = families(name, text, labels=["uuid", label])
    for labelled_as, number in values.items():
        family.add_metric([uuid, labelled_as], number)
    return family


def add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    """Our counts by bucket, as Prometheus wants them: cumulated, with the last one for all."""
    bounds = [*map(floatToGoString, histogram.bounds_s), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum_s)


def coarser(histogram: Histogram) -> Histogram:
    """The same observations in half as many buckets, two of which become one."""
    counts, *beyond = histogram.counts[:-1], histogram.counts[-1]
    kept = [sum(counts[index : index + 2]) for index in range(0, len(counts), 2)]
    bounds = histogram.bounds_s[1::2] + histogram.bounds_s[-1:] * (len(counts) % 2)
    return Histogram(bounds, [*kept, *beyond], histogram.sum_s)
