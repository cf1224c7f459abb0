# SPDX-License-Identifier: GPL-2.0-only
"""A journal entry whose key of the uuid table is damaged to no sectors: there is no table, and no crash."""

from bcached.keys import Key
from bcached.store.finding import Finding
from bcached.store.membership import MemberFound
from bcached.store.reading.volume_check import read_volumes, sound_slots
from instruments.samples.image_builder import ImageBuilder


async def test_a_table_of_no_sectors_has_no_slots() -> None:
    builder = ImageBuilder().finish()
    members = [MemberFound(builder.devices()[0], builder.superblocks[0])]
    assert len(await sound_slots(members, builder.entry(1))) == 2
    builder.uuid_key = Key(0, 0, 0, False, builder.uuid_key.pointers)
    empty = builder.entry(1)
    found: list[Finding] = []
    assert await read_volumes(members, empty, found.append) == []
    assert [finding.rule for finding in found] == ["volume-table"]
    assert await sound_slots(members, empty) == {}
