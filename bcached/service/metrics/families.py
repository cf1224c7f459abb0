# SPDX-License-Identifier: GPL-2.0-only
"""Prometheus metric families from records whose fields declare their metrics (bcached/metric.py)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from bcached.metric import Metric, families_of
from bcached.state.statistics import Histogram

FAMILIES = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,  # the library adds _total to its name
    "histogram": HistogramMetricFamily,
}


def declared_families(
    kind: type, labels: Sequence[str], records: Sequence[tuple[Sequence[str], object]]
) -> Iterator[Family]:
    """Yields the families that a class declares; records are of it, each with its values of the labels."""
    for name, fields in families_of(kind).items():
        declared = fields[0][1]
        own = [declared.label] if declared.label else []
        family = FAMILIES[declared.kind](name, declared.text, labels=[*labels, *own])
        for values, record in records:
            for field, metric in fields:
                _add(family, metric, list(values), getattr(record, field))
        yield family


def _add(family: Any, metric: Metric, labels: list[str], figure: Any) -> None:
    """Add one field's samples to its family.

    1. A histogram. 2. A figure per value of the metric's own label. 3. One figure; 1 for a text.
    """
    if isinstance(figure, Histogram):
        add_histogram(family, labels, figure)
    elif isinstance(figure, Mapping):
        for value, number in with_zeros(metric.known, figure).items():
            family.add_metric([*labels, value], number * metric.unit)
    else:
        number = figure if isinstance(figure, int | float) else bool(figure)
        family.add_metric([*labels, metric.value] if metric.value else labels, number * metric.unit)


def with_zeros(known: Iterable[str], values: Mapping[str, float]) -> dict[str, float]:
    """Returns the values, and 0 for every known label that has none."""
    return {**dict.fromkeys(known, 0), **values}


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
