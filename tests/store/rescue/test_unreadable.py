# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be read: behind the end of a device, and what a copy of it lacks."""

import numpy as np
import pytest

from bcached.errors import DeviceError
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch, patched_devices
from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.store.rescue.extent_map import NO_MEMBER, packed_map
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.unread_device import UnreadDevice, unread_of
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import ImageBuilder

SECTOR = 512
BAD = [range(8, 11), range(20, 21), range(990, 2000)]


def unreadable() -> Unreadable:
    found = Unreadable([1000, 1000])
    found.add(0, BAD)
    return found


def test_a_place_is_unreadable_from_the_first_to_the_last_bad_sector() -> None:
    found = [sector for sector in range(24) if unreadable().overlaps(Place(0, sector), 1)]
    assert found == [8, 9, 10, 20]
    assert unreadable().overlaps(Place(0, 0), 9)
    assert not unreadable().overlaps(Place(0, 0), 8)
    assert not unreadable().overlaps(Place(1, 0), 1000)
    assert unreadable().overlaps(Place(1, 999), 2), "behind the end"


def test_a_piece_has_parts_that_can_be_read_and_others() -> None:
    parts = unreadable().parts
    assert list(parts(Place(0, 6), 16)) == [
        (0, 2, True),
        (2, 3, False),
        (5, 9, True),
        (14, 1, False),
        (15, 1, True),
    ]
    assert list(parts(Place(0, 9), 2)) == [(0, 2, False)]
    assert list(parts(Place(0, 988), 20)) == [(0, 2, True), (2, 10, False), (12, 8, False)]
    assert list(parts(Place(1, 2000), 4)) == [(0, 4, False)]


def test_an_extent_is_unreadable_where_no_copy_can_be_read() -> None:
    copies = (Place(0, 6), Place(1, 996))
    found = unreadable().split(DirtyExtent(30, 8, Confidence.SURE, copies))
    assert [(part.offset, part.sectors, part.copies, can_be_read) for part, can_be_read in found] == [
        (30, 2, (Place(0, 6), Place(1, 996)), True),
        (32, 2, (Place(1, 998),), True),
        (34, 1, (Place(0, 10), Place(1, 1000)), False),
        (35, 3, (Place(0, 11),), True),
    ]
    (whole,) = unreadable().split(DirtyExtent(0, 8, Confidence.SURE, (Place(1, 100),)))
    assert whole == (DirtyExtent(0, 8, Confidence.SURE, (Place(1, 100),)), True)


def test_clients_read_each_part_of_an_extent_from_a_copy_that_has_it() -> None:
    both = DirtyExtent(30, 8, Confidence.SURE, (Place(0, 6), Place(1, 996)))
    one = DirtyExtent(16, 4, Confidence.SURE, (Place(0, 9),))
    rows = np.frombuffer(packed_map([both, one], 16, unreadable()), np.uint64).reshape(-1, 4).tolist()
    assert rows == [
        [0, 2, NO_MEMBER, 0],
        [2, 2, 0, 11],
        [14, 2, 0, 6],
        [16, 2, 1, 998],
        [18, 1, NO_MEMBER, 0],
        [19, 3, 0, 11],
    ]


async def test_a_copy_is_read_where_it_is_one_of_the_device() -> None:
    inner = MemoryDevice.holding(bytes(sector for sector in range(64) for _ in range(SECTOR)))
    copy = UnreadDevice(inner, BAD, "cache.map")
    assert await copy.read(5 * SECTOR, 3 * SECTOR) == await inner.read(5 * SECTOR, 3 * SECTOR)
    for first, sectors in ((8, 1), (7, 2), (10, 2), (0, 64)):
        with pytest.raises(DeviceError, match=r"not copied, says cache\.map"):
            await copy.read(first * SECTOR, sectors * SECTOR)
    found = await copy.read_sectors([number * SECTOR for number in (7, 8, 19, 20, 21)])
    assert [sector and sector[0] for sector in found] == [7, None, 19, None, 21]
    for change in (copy.write(0, bytes(SECTOR)), copy.discard(0, SECTOR)):
        with pytest.raises(DeviceError, match="only read"):
            await change
    await copy.flush()
    await copy.close()
    assert (copy.errors, inner.size_bytes) == (0, copy.size_bytes)


def test_what_a_copy_lacks_is_known_below_patches() -> None:
    copy = UnreadDevice(MemoryDevice(64 * SECTOR), BAD[:2], "cache.map")
    (patched,) = patched_devices([copy], [Patch(0, 0, bytes(SECTOR))])
    assert unread_of(patched) == BAD[:2]
    assert unread_of(copy.inner) == ()
    found = Unreadable.of([MemberFound(patched, ImageBuilder().superblocks[0])])
    assert (found.ends, found.ranges) == ([64], {0: BAD[:2]})
