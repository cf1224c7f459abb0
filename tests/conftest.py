"""What all tests share: a closing line that says what was skipped, and why."""

from collections import Counter

import pytest
from hypothesis import settings

# A busy machine is no failure: how long an example may take is the business of benchmarks.
settings.register_profile("bcached", deadline=None)
settings.load_profile("bcached")


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
