# SPDX-License-Identifier: GPL-2.0-only
"""What top shows on terminals of any size: the important first, never more than fits, and what is missing."""

from io import StringIO

import pytest
from rich.console import Console

from bcached.cli.online.layouts import BRIEF_REST, COMPACT_REST, Fitted, layouts, merged
from bcached.index_state import VolumeState
from bcached.set_state import BUCKET_STATES, SetState

from .test_picture import member, state

RATES = {"sectors allocated": 1234.0, "buckets taken": 12.0, "prio writes": 1.0}
VOLUMES = {
    str(inode): VolumeState(f"label {inode}", False, 8 * inode, 0, 3, 9, 9, 8, 4) for inode in range(9)
}
BUSY = state(
    member(buckets=dict.fromkeys(BUCKET_STATES, 100), written_bytes={"data": 2048}),
    waiters={"btree": 0, "prio": 0, "movinggc": 0, "none": 4},
    oldest_wait_s=2.5,
    held_buckets={"allocator": 3},
    volumes=VOLUMES,
)
TWO = state(member(), member(device=1, path="/dev/other"), volumes=VOLUMES)


def fitted(shown: SetState, width: int, height: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height)
    console.print(Fitted(layouts(shown, RATES)), end="")
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().split("\n")


def test_a_large_terminal_shows_all() -> None:
    lines = fitted(BUSY, 120, 60)
    assert "left out" not in "".join(lines)
    assert any("ahead of the index" in line for line in lines)


def test_80x24_shows_the_free_lists_who_waits_and_what_happens() -> None:
    text = "\n".join(lines := fitted(BUSY, 80, 24))
    assert len(lines) <= 24
    for words in ("4, the oldest for 2.5 s", "617k allocated", "3 buckets by allocator", "metadata", "3/31"):
        assert words in text
    assert lines[-1].startswith("? for keys; left out: ")
    assert COMPACT_REST.split(",", maxsplit=1)[0] in lines[-1]


def test_volumes_are_shown_as_far_as_there_is_space() -> None:
    few = "\n".join(fitted(state(volumes=VOLUMES), 80, 24))
    assert "label 8" in few
    assert "more volumes" in few
    assert "left out: volumes, " in fitted(state(volumes=VOLUMES), 80, 20)[-1]


def test_several_devices_have_four_lines_each() -> None:
    lines = fitted(TWO, 80, 24)
    text = "\n".join(lines)
    assert "device 1 /dev/other" in text
    assert text.count("free lists  btree 3/31, prio 3/31") == 2
    assert lines[-1].endswith(BRIEF_REST[: 80 - len("? for keys; left out: ")].strip())


@pytest.mark.parametrize("shown", [BUSY, TWO, state(failed="/dev/some disk: flush failed")])
@pytest.mark.parametrize("size", [(200, 9), (80, 24), (80, 23), (60, 16), (40, 10), (30, 5), (12, 2)])
def test_never_more_than_fits(shown: SetState, size: tuple[int, int]) -> None:
    width, height = size
    lines = fitted(shown, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("? for keys"[:width])


def test_a_failure_is_on_the_smallest_terminal() -> None:
    assert any("FAILED" in line for line in fitted(state(failed="/dev/sdb: flush failed"), 40, 5))


def test_the_states_of_metadata_are_one() -> None:
    states = dict.fromkeys(BUCKET_STATES, 1)
    assert merged(states)["metadata"] == 5
    assert sum(merged(states).values()) == len(BUCKET_STATES)
