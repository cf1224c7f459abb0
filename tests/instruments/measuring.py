# SPDX-License-Identifier: GPL-2.0-only
"""What coverage is measured of: it makes all Python slower, often threefold, and repetition adds no line."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

TESTS = Path(__file__).parents[1]
# Programs are measured where they are what is tested.
PROGRAMS = {"cli", "service"}
# Tests that run nothing of the package in their own process: documents, distributions, instruments.
FROM_OUTSIDE = {
    "alloc_order",
    "bench",
    "demo",
    "docs",
    "examples",
    "instruments",
    "kernel",
    "manual",
    "monitoring",
    "package",
}
EXAMPLES = 20  # that are measured of a property
CONFIG = "COVERAGE_PROCESS_CONFIG"  # is in the environment of programs that are to be measured
CONFIG_KEY = pytest.StashKey[str | None]()


def folders_of(item: pytest.Item) -> set[str]:
    """The folders below tests that a test is in."""
    return set(item.path.relative_to(TESTS).parts[:-1])


def mark_unmeasured(items: list[pytest.Item]) -> None:
    """Mark the tests during which pytest-cov measures nothing."""
    for item in items:
        if folders_of(item) & FROM_OUTSIDE:
            item.add_marker(pytest.mark.no_cover)


def measure_once(config: pytest.Config) -> None:
    """Leave only what pytest-cov knows of measuring in a worker of pytest-xdist.

    It begins twice there, and when it stops, what it began first would go on in its place.
    """
    plugin = config.pluginmanager.getplugin("_cov")
    if plugin is None or not hasattr(config, "workerinput"):
        return
    while (current := Coverage.current()) is not None:
        current.stop()
    plugin.cov_controller.cov.start()


def choose_programs(item: pytest.Item) -> None:
    """Whether the programs that a test starts are measured."""
    config = item.config.stash.setdefault(CONFIG_KEY, os.environ.get(CONFIG))
    if config is None:
        return
    if folders_of(item) & PROGRAMS:
        os.environ[CONFIG] = config
    else:
        os.environ.pop(CONFIG, None)


@contextmanager
def measuring_first_examples(item: pytest.Item) -> Iterator[None]:
    """Of a test of a property only the first examples are measured; all are tried."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    tested: Any = getattr(getattr(item, "obj", None), "hypothesis", None)
    if plugin is None or tested is None or item.get_closest_marker("no_cover"):
        yield
        return
    coverage, inner, tries = plugin.cov_controller.cov, tested.inner_test, count(1)
    tested.inner_test = _counted(inner, lambda: coverage.stop() if next(tries) == EXAMPLES + 1 else None)
    try:
        yield
    finally:
        tested.inner_test = inner
        if next(tries) > EXAMPLES + 1:
            coverage.start()


def _counted(test: Callable[..., Any], called: Callable[[], object]) -> Callable[..., Any]:
    @wraps(test)
    def counted(*arguments: Any, **named: Any) -> Any:
        called()
        return test(*arguments, **named)

    return counted
