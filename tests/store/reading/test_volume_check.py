# SPDX-License-Identifier: GPL-2.0-only
"""The uuid table: what neither bcached nor the kernel writes is refused; sound slots are told apart."""

from dataclasses import replace
from uuid import UUID

import pytest

from bcached.format.uuid_entry import BURNT_UUID, UuidEntry, pack_table
from bcached.format.volume_owner import EntryOwner
from bcached.store.finding import Finding, Severity
from bcached.store.reading.set_reader import read_set
from bcached.store.reading.volume_check import read_volumes, sound_slots
from bcached.store.uuid_table import VOLUME_SECTORS_MAX
from instruments.samples.used_set import BUCKET_BYTES, Image

GOOD = UuidEntry(UUID(int=1), "first", 10, 20)
FLASH = UuidEntry(UUID(int=2), "second", 10, 20, flash_only=True, sectors=800)
BURNT = UuidEntry(BURNT_UUID, "", 0, 0, 30)

OTHER = replace(GOOD, uuid=UUID(int=3))
DAMAGE = {
    "flags": (replace(OTHER, other_flags=4), "volume-flags"),
    "deleted, and not burnt": (replace(OTHER, invalidated=5), "volume-times"),
    "a size, and not flash-only": (replace(OTHER, sectors=8), "volume-size"),
    "larger than a volume can be": (replace(FLASH, sectors=VOLUME_SECTORS_MAX + 1), "volume-size"),
}


async def read(*entries: UuidEntry | None, spoil: bytes = b"") -> tuple[list[int], list[Finding], list[int]]:
    """The slots in use, the findings, and the sound slots of a table with these entries."""
    image = await Image.used()
    at = image.newest.uuid_bucket.pointers[0].sector * 512
    image.put(at, pack_table(entries, BUCKET_BYTES))
    image.put(at, spoil)
    members = (await read_set([(await Image.used()).device()])).members
    members = [replace(members[0], block_device=image.device())]
    found: list[Finding] = []
    slots = await read_volumes(members, image.newest, found.append)
    used = [slot for slot, entry in enumerate(slots) if entry is not None]
    return used, found, sorted(await sound_slots(members, image.newest))


async def test_a_table_as_both_write_it_has_no_findings() -> None:
    owned = replace(GOOD, uuid=UUID(int=4), owner=EntryOwner(1000))
    assert await read(GOOD, None, FLASH, BURNT, owned) == ([0, 2, 3, 4], [], [0, 2, 3, 4])


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_wrong_slot_is_fatal_and_the_others_are_sound(name: str) -> None:
    entry, rule = DAMAGE[name]
    _, found, sound = await read(GOOD, entry)
    assert [(one.rule, one.severity) for one in found] == [(rule, Severity.FATAL)]
    assert "slot 1" in found[0].where
    assert sound == [0]


async def test_of_two_slots_with_one_uuid_neither_is_sound() -> None:
    _, found, sound = await read(GOOD, FLASH, replace(GOOD, label="copy"))
    assert [(one.rule, one.severity) for one in found] == [("volume-doubled", Severity.FATAL)]
    assert sound == [1]


async def test_a_flash_only_volume_without_sectors_is_a_note() -> None:
    _, found, sound = await read(replace(FLASH, sectors=0))
    assert [(one.rule, one.severity) for one in found] == [("volume-size", Severity.NOTE)]
    assert sound == [0]


async def test_bytes_where_a_table_has_none_are_fatal() -> None:
    used, found, sound = await read(GOOD, FLASH, spoil=GOOD.pack()[:-1] + b"x")
    assert [(one.rule, one.where.rpartition(" ")[2]) for one in found] == [("volume-slot", "0")]
    assert (used, sound) == ([0, 1], [1])
