# SPDX-License-Identifier: GPL-2.0-only
"""What the power cuts share."""

from functools import cache
from typing import Any

import pytest

from bcached.format.jset import scan_journal_bucket
from bcached.store.journal import reader as journal_reader


@pytest.fixture(autouse=True)
def parse_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most states that a power cut leaves share their journal's bytes, which need not be parsed again."""
    if request.module.__name__.endswith(("test_power_cuts", "test_planted_bugs")):
        parse: Any = cache(scan_journal_bucket)
        monkeypatch.setattr(journal_reader, "scan_journal_bucket", parse)
