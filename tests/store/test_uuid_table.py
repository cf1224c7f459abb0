# SPDX-License-Identifier: GPL-2.0-only
"""Volumes in their slots: which one is given, what is refused, and that a refusal changes nothing."""

from uuid import UUID

import pytest

from bcached.errors import InvalidParameter, LimitExceeded
from bcached.format.uuid_entry import BURNT_UUID, FREE_UUID, UuidEntry, pack_table, parse_table
from bcached.keys import Pointer
from bcached.store.geometry_limits import geometry_for
from bcached.store.uuid_table import UuidTable

GEOMETRY = geometry_for(4 << 20, bucket_sectors=8, block_sectors=8)


def test_a_label_cut_in_mid_character_can_be_told_and_goes_back_as_it_was() -> None:
    raw = UuidEntry(UUID(int=1), "x" * 31 + "\udcc3").pack().ljust(4096, b"\0")
    table = UuidTable(GEOMETRY, parse_table(raw))
    assert [volume.label.encode() for volume in table.volumes()] == [("x" * 31 + "\ufffd").encode()]
    assert pack_table(table.entries, 4096) == raw


def table(*entries: UuidEntry | None) -> UuidTable:
    return UuidTable(GEOMETRY, [*entries, *[None] * (32 - len(entries))])


def volume(number: int) -> UuidEntry:
    return UuidEntry(UUID(int=number + 1), f"volume {number}")


def test_a_volume_gets_a_free_slot_and_never_a_burnt_one() -> None:
    burnt = UuidEntry(BURNT_UUID)
    there = table(volume(0), burnt, None, volume(3))
    assert there.free_inodes() == [2, *range(4, 32)]
    entries = there.with_volume(2, "new", 0, UUID(int=99))
    assert entries[2] is not None
    assert (entries[2].label, entries[2].flash_only) == ("new", False)
    assert [entries[0], entries[1], entries[3]] == [volume(0), burnt, volume(3)]
    assert [found.inode for found in there.volumes()] == [0, 3], "nothing counts before it is durable"


def test_sectors_make_a_volume_flash_only() -> None:
    (found,) = UuidTable(GEOMETRY, table().with_volume(0, "flash", 1000, UUID(int=5))).volumes()
    assert (found.inode, found.sectors, found.flash_only, found.uuid) == (0, 1000, True, UUID(int=5))


def test_a_label_of_32_bytes_is_kept_and_one_of_33_is_refused() -> None:
    for label in ("x" * 32, "\u00e9" * 16, ""):
        table().check_new(label, 0, UUID(int=5))
        entries = table().with_volume(0, label, 0, UUID(int=5))
        assert [
            one.label for one in UuidTable(GEOMETRY, parse_table(pack_table(entries, 4096))).volumes()
        ] == [label]
    for label in ("x" * 33, "\u00e9" * 17, "a\0b"):
        with pytest.raises(InvalidParameter, match="label"):
            table().check_new(label, 0, UUID(int=5))


@pytest.mark.parametrize("sectors", [-1, 1 << 63])
def test_a_size_that_cannot_be_is_refused(sectors: int) -> None:
    with pytest.raises(InvalidParameter, match="sectors"):
        table().check_new("a", sectors, UUID(int=5))


@pytest.mark.parametrize("uuid", [FREE_UUID, BURNT_UUID, UUID(int=1)])
def test_a_uuid_that_is_taken_or_means_something_else_is_refused(uuid: UUID) -> None:
    with pytest.raises(InvalidParameter, match="uuid"):
        table(volume(0)).check_new("a", 0, uuid)


def test_a_full_table_takes_no_more() -> None:
    full = table(*map(volume, range(32)))
    with pytest.raises(LimitExceeded, match="no slot is left for volume number 33"):
        full.check_new("one more", 0, UUID(int=99))


def test_a_volume_taken_away_leaves_a_free_slot_and_the_others_where_they_were() -> None:
    there = table(volume(0), volume(1))
    assert there.without_volume(0)[:2] == [None, volume(1)]
    assert there.entries[0] == volume(0)


def test_what_was_a_volume_s_slot_is_taken_until_it_is_freed() -> None:
    there = table(volume(0), None, UuidEntry(BURNT_UUID))
    assert [inode for inode in (0, 1, 2, 32) if there.is_taken(inode)] == [0, 2]
    assert there.without_volume(2) == table(volume(0)).entries


def test_the_table_s_key_is_at_the_position_and_of_the_size_the_kernel_gives_it() -> None:
    key = table().key_at(device=1, bucket=20, gen=3)
    assert (key.inode, key.end, key.sectors, key.pointers) == (0, 0, 8, (Pointer(1, 160, 3),))
