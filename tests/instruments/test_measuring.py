# SPDX-License-Identifier: GPL-2.0-only
"""Coverage is measured of the first examples of a property, and all examples are tried."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruments.measuring import EXAMPLES, measuring_first_examples


class Switch:
    """In place of coverage: whether it measures."""

    on = True

    def stop(self) -> None:
        self.on = False

    def start(self) -> None:
        assert not self.on, "started twice"
        self.on = True


@pytest.mark.parametrize("examples", [EXAMPLES - 1, EXAMPLES, EXAMPLES + 1, 3 * EXAMPLES])
@pytest.mark.parametrize("fails", [False, True])
def test_the_first_examples_are_measured_and_all_are_tried(examples: int, fails: bool) -> None:
    switch, measured = Switch(), []

    @settings(max_examples=examples, database=None)
    @given(st.integers(0, 10**9))
    def prop(number: int) -> None:
        del number
        measured.append(switch.on)
        assert not fails

    plugin = SimpleNamespace(cov_controller=SimpleNamespace(cov=switch))
    manager = SimpleNamespace(getplugin=lambda _: plugin)
    item: Any = SimpleNamespace(
        obj=prop, config=SimpleNamespace(pluginmanager=manager), get_closest_marker=lambda _: None
    )
    with measuring_first_examples(item):
        if fails:
            with pytest.raises(AssertionError):
                prop()
        else:
            prop()
    assert switch.on
    assert measured[:EXAMPLES] == [True] * min(len(measured), EXAMPLES)
    assert not any(measured[EXAMPLES:])
    assert fails or len(measured) == examples
