# SPDX-License-Identifier: MIT
"""The metric of a figure, declared where the figure is: `Annotated[int, gauge("name", "Help.")]`.

service/metrics turns the annotated fields of a record into metric families; fields that share a name are one
family, and differ in the value of its label.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

Kind = Literal["gauge", "counter", "histogram"]


class Metric(NamedTuple):
    """One metric family, or one sample of it.

    label is a label beside those of the record: either the field is a dict by its values, and has at least
    those in known; or value is the one of this field. The field's figure is multiplied by unit.
    """

    kind: Kind
    name: str
    text: str  # Prometheus's help text
    label: str = ""
    known: tuple[str, ...] = ()
    value: str = ""
    unit: int = 1


def gauge(
    name: str, text: str, *, label: str = "", known: tuple[str, ...] = (), value: str = "", unit: int = 1
) -> Metric:
    """Returns the declaration of a level."""
    return Metric("gauge", name, text, label, known, value, unit)


def counter(name: str, text: str, *, label: str = "", known: tuple[str, ...] = (), unit: int = 1) -> Metric:
    """Returns the declaration of a count that only rises; its exposed name ends in _total."""
    return Metric("counter", name, text, label, known, unit=unit)


def histogram(name: str, text: str) -> Metric:
    """Returns the declaration of a histogram."""
    return Metric("histogram", name, text)


@cache
def families_of(record: type) -> dict[str, list[tuple[str, Metric]]]:
    """Returns (field, metric) of a record class by family name, in the order of the fields."""
    families: dict[str, list[tuple[str, Metric]]] = {}
    for field, metric in _declared(record):
        families.setdefault(metric.name, []).append((field, metric))
    return families


def _declared(record: type) -> Iterator[tuple[str, Metric]]:
    hints: dict[str, Any] = get_type_hints(record, include_extras=True)
    for field, hint in hints.items():
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, Metric):
                yield field, note
