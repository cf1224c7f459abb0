# SPDX-License-Identifier: GPL-2.0-only
"""What all tests share: closing lines that say how many crash states were judged, and what was skipped."""

import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from instruments.crash.state_share import share_of
from instruments.measuring import (
    choose_programs,
    mark_unmeasured,
    measure_once,
    measuring_first_examples,
)

# What a script starts in the background ignores Ctrl-C, and under nohup the end of the terminal, and so would
# all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure: how long an example may take is the business of benchmarks.
settings.register_profile("bcached", deadline=None)
settings.load_profile("bcached")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Workers are measured once."""
    measure_once(session.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run nothing of the package in their process are not measured."""
    mark_unmeasured(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Programs are measured where they are what is tested."""
    choose_programs(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Examples beyond the first ones are not measured."""
    with measuring_first_examples(item):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Too few crash states in a whole run of the tests that judge them are a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    line, suffices = share_of(reporter.stats.get("passed", []))
    if line:
        reporter.ensure_newline()
        reporter.write_line(line, bold=True, red=not suffices)
    if not suffices:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Skips are told at the very end, counted by reason: a skipped test proves nothing."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reports = reporter.stats.get("skipped", [])
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in reports
    )
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    reporter.write_line(f"{len(reports)} skipped: {told}" if reports else "0 skipped", bold=True)
