# SPDX-License-Identifier: GPL-2.0-only
import pytest

from instruments.time.lines_run import lines_run


def add_up(count: int) -> int:
    total = 0
    for number in range(count):
        total += number
    return total


def test_every_pass_of_a_loop_counts() -> None:
    few, many = (lines_run(lambda count=count: add_up(count)) for count in (10, 1010))  # type: ignore[misc]
    assert many - few == 2000


def test_so_does_a_generator() -> None:
    assert lines_run(lambda: sum(number for number in range(1000))) > 1000


def test_an_error_ends_the_count() -> None:
    with pytest.raises(ZeroDivisionError):
        lines_run(lambda: 1 // 0)
