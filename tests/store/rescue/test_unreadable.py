# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be read: the end of a device, and the bad blocks of a ddrescue map."""

import pytest

from bcached.errors import SetRefused
from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.unreadable import Unreadable, bad_ranges

MAP = """# Mapfile. Created by GNU ddrescue
# current_pos  current_status  current_pass
0x00002000     +               1
#      pos        size  status
0x00000000  0x00001000  +
0x00001000  0x00000200  -
0x00001200  0x00000400  *
0x00001600  0x00100000  +
"""


def test_every_block_of_a_map_that_is_not_finished_is_bad() -> None:
    assert list(bad_ranges(MAP.splitlines(), "m")) == [(0x1000, 0x1200), (0x1200, 0x1600)]


def test_a_place_is_unreadable_from_the_first_to_the_last_bad_sector() -> None:
    unreadable = Unreadable([1000])
    unreadable.add_map(MAP.splitlines(), "m")
    found = [sector for sector in range(16) if unreadable.overlaps(Place(0, sector), 1)]
    assert found == [8, 9, 10]
    assert unreadable.overlaps(Place(0, 0), 9)
    assert not unreadable.overlaps(Place(0, 0), 8)
    assert unreadable.overlaps(Place(0, 999), 2), "behind the end"


def test_an_extent_with_a_readable_copy_is_readable() -> None:
    unreadable = Unreadable([100, 1000])
    copies = (Place(0, 200), Place(1, 200))
    assert not unreadable.holds(DirtyExtent(0, 8, Confidence.SURE, copies))
    assert unreadable.holds(DirtyExtent(0, 8, Confidence.SURE, copies[:1]))


@pytest.mark.parametrize("line", ["0x1000 x +", "0x1000 0x200", "0x500 0x200 -"])
def test_what_is_no_map_is_refused(line: str) -> None:
    with pytest.raises(SetRefused, match="m: expected"):
        list(bad_ranges([*MAP.splitlines(), line], "m"))


@pytest.mark.parametrize("text", ["", "x", "\0" * 4096, "# a comment\n0x2000 + 1\n", "no map\n0 0x1000 +\n"])
def test_a_file_that_says_nothing_of_a_device_is_no_map(text: str) -> None:
    with pytest.raises(SetRefused, match="m: expected a ddrescue map") as refused:
        list(bad_ranges(text.splitlines(), "m"))
    assert len(str(refused.value)) < 250


def test_a_map_is_of_one_device() -> None:
    with pytest.raises(SetRefused, match="the set has 2"):
        Unreadable([100, 100]).add_map(MAP.splitlines(), "m")
