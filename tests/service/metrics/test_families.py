# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import dataclass, field
from typing import Annotated

from prometheus_client.metrics_core import Metric

from bcached.metric import counter, gauge, histogram
from bcached.service.metrics.families import declared_families
from bcached.state.statistics import Histogram


@dataclass
class Record:
    plain: Annotated[int, gauge("plain", "A level.")] = 3
    scaled: Annotated[int, counter("scaled_bytes", "A count.", unit=512)] = 2
    text: Annotated[str | None, gauge("text", "Whether there is one.")] = None
    first: Annotated[int, gauge("shared", "Two fields.", label="which", value="first")] = 1
    second: Annotated[int, gauge("shared", "Two fields.", label="which", value="second")] = 2
    by_kind: Annotated[dict[str, int], counter("kinds", "A map.", label="kind", known=("a", "b"))] = field(
        default_factory=lambda: {"b": 5, "c": 6}
    )
    times: Annotated[Histogram, histogram("times_seconds", "How long.")] = field(
        default_factory=lambda: Histogram((1.0,), [2, 1], 7.5)
    )
    silent: int = 9


def families(*records: tuple[list[str], Record]) -> dict[str, Metric]:
    return {family.name: family for family in declared_families(Record, ["uuid"], records)}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_a_field_without_a_metric_is_not_exposed() -> None:
    assert set(families()) == {"plain", "scaled_bytes", "text", "shared", "kinds", "times_seconds"}


def test_each_record_has_a_sample_under_its_labels() -> None:
    found = families((["one"], Record()), (["two"], Record(plain=4)))
    assert values(found["plain"]) == {("one",): 3, ("two",): 4}


def test_a_figure_is_multiplied_by_its_unit() -> None:
    assert values(families((["one"], Record()))["scaled_bytes"]) == {("one",): 1024}


def test_a_text_counts_as_one_and_none_as_zero() -> None:
    found = families((["one"], Record()), (["two"], Record(text="failed")))
    assert values(found["text"]) == {("one",): 0, ("two",): 1}


def test_fields_of_one_name_are_one_family() -> None:
    found = families((["one"], Record()))["shared"]
    assert values(found) == {("one", "first"): 1, ("one", "second"): 2}


def test_known_values_of_a_label_are_exposed_as_zero() -> None:
    found = families((["one"], Record()))["kinds"]
    assert values(found) == {("one", "a"): 0, ("one", "b"): 5, ("one", "c"): 6}


def test_a_histogram_is_cumulative() -> None:
    samples = families((["one"], Record()))["times_seconds"].samples
    counts = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    assert counts == [2, 3]
