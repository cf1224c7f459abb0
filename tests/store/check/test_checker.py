# SPDX-License-Identifier: GPL-2.0-only
"""Each damage, planted alone on a sound image, is found as what it is, and nothing else is found."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcached.errors import SetRefused
from bcached.format.superblock import COPY_SECTOR
from bcached.format.superblock_fields import REPLACEMENT_MAX
from bcached.format.uuid_entry import BURNT_UUID, UuidEntry
from bcached.keys import Key, Pointer
from bcached.set_state import Replacement
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import FINDINGS_OF_A_RULE_MAX, Findings, Severity
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.samples.format_samples import keys, sealed, with_field
from instruments.samples.image_builder import (
    FLASH,
    MAX_POSITION,
    PLAIN,
    SECTOR,
    ImageBuilder,
    Keys,
    two_levels,
)

SUPERBLOCK = 4096
NOTE, TORN, DAMAGE, FATAL = Severity


async def check(builder: ImageBuilder) -> CheckedSet:
    devices = builder.devices()
    try:
        return await check_set(devices)
    finally:
        for device in devices:
            await device.close()


def told(found: CheckedSet) -> list[tuple[str, Severity]]:
    return [(finding.rule, finding.severity) for finding in found.findings.listed]


async def assert_found(builder: ImageBuilder, *expected: tuple[str, Severity]) -> CheckedSet:
    found = await check(builder)
    assert told(found) == list(expected), "\n".join(map(str, found.findings.listed))
    assert found.findings.sound == all(severity == NOTE for _, severity in expected)
    return found


def sound(builder: ImageBuilder | None = None, journal: Sequence[Keys] = ()) -> ImageBuilder:
    """Two levels, thirty extents, three journal entries with two keys."""
    builder = builder or ImageBuilder()
    root, _ = two_levels(builder)
    journal = journal or ([builder.extent(0, 5000, 8)], [], [builder.extent(0, 100, 8, dirty=True)])
    return builder.finish(root, 1, journal)


def leaf(*keys: Key, **options: int) -> ImageBuilder:
    """A tree of one leaf with these keys."""
    builder = ImageBuilder(**options)
    return builder.finish(builder.node(keys))


# Sound ones.


async def test_a_sound_image_is_sound() -> None:
    found = await assert_found(sound())
    assert found.totals.live_keys == 30 + 2
    assert found.totals.volumes.keys() == {0}


@pytest.mark.parametrize(
    "builder",
    [
        ImageBuilder(bucket_sectors=8, bucket_count=3000),  # a prio chain of three
        ImageBuilder(bucket_sectors=16, block_sectors=1),
        ImageBuilder(bucket_sectors=1024, bucket_count=600),  # a node is smaller than its bucket
        ImageBuilder(members=2),
    ],
    ids=["4k", "8k", "512k", "two"],
)
async def test_so_it_is_in_other_shapes(builder: ImageBuilder) -> None:
    await assert_found(sound(builder))


async def test_a_fresh_set_is_sound_and_holds_nothing() -> None:
    builder = ImageBuilder()
    builder.write_superblock(replace(builder.superblocks[0], synchronous=False, journal_buckets=()))
    found = await assert_found(builder)
    assert found.is_fresh
    assert found.journal is None


async def test_of_a_set_all_members_are_wanted() -> None:
    first, second = sound(ImageBuilder(members=2)).devices()
    with pytest.raises(SetRefused, match=r"disk0: its set has 2 members, but 1 were given"):
        await check_set([first])
    (other,) = sound().devices()
    other.path = "other"
    with pytest.raises(SetRefused, match=r"other: its set has 1 members, but 2 were given"):
        await check_set([second, other])
    found = await check_set([second, first])
    assert found.findings.listed == []
    assert [member.path for member in found.members] == ["disk0", "disk1"]


# The superblock.


def field(builder: ImageBuilder, offset: int, layout: str, value: int | bytes) -> None:
    """Overwrite a field of the superblock and put its checksum right; there is no copy."""
    raw = bytes(builder.images[0][SUPERBLOCK : SUPERBLOCK + 4096])
    journal_count = int.from_bytes(raw[206:208], "little")
    raw = bytes(with_field(raw, offset, layout, value))
    if offset != 206:
        journal_count = min(journal_count, 256)
        raw = sealed(raw, 208 + 8 * journal_count)
    builder.write(SUPERBLOCK, raw)
    builder.write(COPY_SECTOR * SECTOR, bytes(4096))


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (8, "Q", 9),  # offset
        (24, "16s", bytes(16)),  # magic
        (40, "16s", bytes(16)),  # uuid
        (56, "16s", bytes(16)),  # set_uuid
        (16, "Q", 2),  # version
        (16, "Q", 4),  # a backing device
        (184, "Q", 100),  # nbuckets: too few
        (184, "Q", 641),  # more than there are
        (184, "Q", 1 << 63),
        (192, "H", 0),  # block_size
        (192, "H", 3),
        (192, "H", 256),  # more than a page of any kernel
        (194, "H", 63),  # bucket_size
        (194, "H", 4),
        (196, "H", 0),  # nr_in_set
        (196, "H", 9),
        (198, "H", 1),  # nr_this_dev
        (204, "H", 2),  # first_bucket
        (206, "H", 300),  # njournal_buckets
        (208, "Q", 2),  # d[0]
        (104, "Q", 1 | (REPLACEMENT_MAX + 1) << 2),  # replacement
    ],
)
async def test_a_wrong_superblock(offset: int, layout: str, value: int | bytes) -> None:
    builder = sound()
    field(builder, offset, layout, value)
    await assert_found(builder, ("superblock", FATAL))


async def test_blocks_larger_than_a_page_here() -> None:
    builder = sound()
    field(builder, 192, "H", 16)
    found = await assert_found(builder, ("geometry", FATAL), ("journal-gap", FATAL))
    assert "its blocks of 8k are larger than a page of 4k" in str(found.findings.listed[0])


async def test_unknown_features() -> None:
    for offset in (120, 128, 136):
        builder = sound()
        field(builder, 16, "Q", 5)
        field(builder, offset, "Q", 1 << 5)
        await assert_found(builder, ("superblock", FATAL))


async def test_a_journal_is_promised_and_there_are_no_buckets_for_it() -> None:
    builder = sound()
    builder.write_superblock(replace(builder.superblocks[0], journal_buckets=()), copy=False)
    builder.write(COPY_SECTOR * SECTOR, bytes(4096))
    await assert_found(builder, ("superblock", FATAL))


async def test_of_a_damaged_superblock_the_copy_serves() -> None:
    builder = sound()
    builder.flip(SUPERBLOCK + 112)
    found = await assert_found(builder, ("superblock", DAMAGE))
    assert "the copy at sector 16 is good" in found.findings.listed[0].lost
    assert found.totals.live_keys > 0


async def test_without_a_copy_all_is_lost() -> None:
    builder = sound()
    builder.write(COPY_SECTOR * SECTOR, bytes(4096))
    builder.flip(SUPERBLOCK + 112)
    found = await assert_found(builder, ("superblock", FATAL))
    assert found.findings.listed[0].lost.startswith("everything")


@pytest.mark.parametrize("offset", [0, 8, 24, 40, 60, 112, 185, 204])
async def test_a_damaged_copy(offset: int) -> None:
    builder = sound()
    builder.flip(COPY_SECTOR * SECTOR + offset)
    await assert_found(builder, ("superblock-copy", DAMAGE))


async def test_a_copy_of_other_settings_is_worth_a_note() -> None:
    builder = sound()
    builder.write_superblock(replace(builder.superblocks[0], replacement=Replacement.FIFO, seq=9), copy=False)
    await assert_found(builder, ("superblock-copy", NOTE))


async def test_what_others_left_at_the_copy_s_place_is_no_copy() -> None:
    builder = sound()
    builder.write(COPY_SECTOR * SECTOR, b"\xa5" * 4096)
    await assert_found(builder)


async def test_a_copy_that_only_counts_behind_is_sound() -> None:
    builder = sound()
    superblock = replace(builder.superblocks[0], seq=99, last_mount=12345)
    builder.write_superblock(superblock, copy=False)
    await assert_found(builder)


# The members.


async def test_members_that_are_not_of_one_set() -> None:
    builder = sound(ImageBuilder(members=2))
    other = replace(builder.superblocks[1], set_uuid=builder.superblocks[1].uuid)
    builder.write_superblock(other, 1)
    await assert_found(builder, ("set-members", FATAL))


async def test_the_same_member_twice() -> None:
    builder = sound(ImageBuilder(members=2))
    builder.images[1] = builder.images[0]
    await assert_found(builder, ("set-members", FATAL))


async def test_a_fresh_member_among_members_in_use() -> None:
    builder = sound(ImageBuilder(members=2))
    builder.write_superblock(replace(builder.superblocks[1], synchronous=False), 1)
    await assert_found(builder, ("set-members", FATAL))


# The journal.


def journal_byte(builder: ImageBuilder, index: int) -> int:
    return builder.geometry.byte_of(builder.superblocks[0].journal_buckets[index])


async def test_no_journal_at_all() -> None:
    builder = sound()
    builder.write(journal_byte(builder, 1), bytes(builder.geometry.bucket_bytes))
    found = await assert_found(builder, ("journal-empty", FATAL))
    assert found.findings.listed[0].lost.startswith("everything")


@pytest.mark.parametrize("seq", [1, 2, 3, 4])
async def test_an_entry_that_is_missing(seq: int) -> None:
    """Five entries in two buckets; one of the first four is damaged, and all of its bucket behind it."""
    builder = sound(journal=[[], [], []])
    byte = journal_byte(builder, 2)
    for later in (4, 5):
        byte = builder.write_entry(builder.entry(later, 1), byte)
    builder.write_entry(builder.entry(6, 1), journal_byte(builder, 3))
    builder.flip(builder.entries[seq][1] + 32)
    found = await assert_found(builder, ("journal-gap", FATAL))
    (finding,) = found.findings.listed
    last = 3 if seq < 4 else 5
    names = f"{seq} to {last}" if seq < last else f"{seq}"
    assert f"entries {names} are missing of 1 to 6" in finding.problem
    assert f"byte {builder.entries[seq][1] % builder.geometry.bucket_bytes}" in finding.where


async def test_a_gap_at_the_front_is_forgiven_on_a_device_that_discards() -> None:
    builder = sound()
    builder.write_superblock(replace(builder.superblocks[0], discard=True))
    builder.write(journal_byte(builder, 1), bytes(builder.geometry.bucket_bytes))
    builder.write_entry(builder.entry(5, 4), journal_byte(builder, 2))
    await assert_found(builder, ("journal-gap", NOTE))
    byte = builder.write_entry(builder.entry(4), journal_byte(builder, 1))
    builder.flip(byte - builder.geometry.block_bytes + 32)  # what is damaged was not discarded
    await assert_found(builder, ("journal-gap", FATAL))


@pytest.mark.parametrize("discard", [False, True])
async def test_an_entry_that_has_no_next_one(discard: bool) -> None:
    builder = sound(journal=[[], [], []])
    builder.write_superblock(replace(builder.superblocks[0], discard=discard))
    builder.write_entry(builder.entry((1 << 64) - 1), journal_byte(builder, 2))
    found = await assert_found(builder, ("journal-seq", FATAL), ("journal-gap", FATAL))
    assert f"entries 4 to {(1 << 64) - 2} are missing of 1 to {(1 << 64) - 1}" in str(
        found.findings.listed[1]
    )


@pytest.mark.parametrize("offset", [0, 8, 24, 32, 110, 200, 241])
async def test_a_newest_entry_of_one_sector_that_is_damaged(offset: int) -> None:
    builder = sound()
    builder.flip(builder.entries[3][1] + offset)
    found = await assert_found(builder, ("journal-newer", DAMAGE))
    assert found.journal is not None
    assert found.journal.newest.seq == 2
    assert found.findings.listed[0].where == "disk0 journal bucket 2, byte 8192"


async def test_a_newest_entry_that_is_not_whole() -> None:
    builder = ImageBuilder()
    builder = sound(builder, [[], [], [builder.extent(0, 5000 + 8 * n, 8) for n in range(30)]])
    builder.tear_entry(3)
    found = await assert_found(builder, ("journal-torn", TORN))
    assert found.journal is not None
    assert found.journal.newest.seq == 2
    assert found.findings.listed[0].where == "disk0 journal bucket 2, byte 8192"


async def test_several_entries_behind_one_that_is_damaged() -> None:
    builder = sound()
    byte = journal_byte(builder, 2)
    for seq in (4, 5, 6):
        byte = builder.write_entry(builder.entry(seq, 1), byte)
    builder.flip(builder.entries[4][1] + 32)
    found = await assert_found(builder, ("journal-lost", FATAL))
    assert "but entries up to 6 were written" in found.findings.listed[0].problem


async def test_a_newest_entry_whose_seq_is_damaged() -> None:
    builder = sound()
    builder.images[0][builder.entries[3][1] + 22] ^= 1
    await assert_found(builder, ("journal-newer", DAMAGE))


async def test_a_number_that_no_entry_can_have_hides_none() -> None:
    """A sound entry out of nowhere must not keep the set from being opened."""
    builder = sound()
    builder.write_entry(builder.entry(1 << 50, 1), journal_byte(builder, 2) + 5 * 4096)
    await assert_found(builder, ("journal-stray", DAMAGE))


@pytest.mark.parametrize("seq", [12, 40, 1 << 50])
@pytest.mark.parametrize("gap", [0, 1])
async def test_a_leftover_with_a_flipped_bit_in_its_number_is_no_newer_entry(gap: int, seq: int) -> None:
    """Nothing in it was needed, so neither is the set refused nor does it fall back."""
    builder = sound()
    byte = builder.write_entry(builder.entry(9, 9), journal_byte(builder, 2))
    byte = builder.write_entry(builder.entry(10, 9), byte)
    raw = bytearray(builder.entry(4, 1).pack(builder.set_magic, builder.geometry.block_bytes))
    raw[16:24] = seq.to_bytes(8, "little")
    builder.write(byte + gap * builder.geometry.block_bytes, raw)
    found = await assert_found(builder, ("journal-stray", NOTE))
    assert found.journal is not None
    assert found.journal.newest.seq == 10
    builder.write_entry(builder.entry(seq, 1), byte)  # and with a good checksum
    found = await assert_found(builder, *[("journal-stray", NOTE)] * (1 + gap), ("journal-ring", DAMAGE))
    assert found.journal is not None
    assert found.journal.newest.seq == 10
    assert f"the kernel takes entry {seq} for the newest" in found.findings.listed[-1].problem


async def test_an_unneeded_bucket_that_begins_with_a_flipped_bit_hides_no_newer_entry() -> None:
    builder = sound()
    builder.write_entry(builder.entry(9, 9), journal_byte(builder, 3))
    raw = bytearray(builder.entry(3, 1).pack(builder.set_magic, builder.geometry.block_bytes))
    raw[16] ^= 1 << 4
    builder.write(journal_byte(builder, 2), raw)
    builder.write(builder.entries[3][1], raw)
    found = await check(builder)
    assert ("journal-stray", NOTE) in told(found)
    assert found.findings.worst < FATAL


async def test_what_is_left_of_the_lap_before_is_nothing() -> None:
    builder = sound()
    byte = builder.write_entry(builder.entry(9, 9), journal_byte(builder, 2))
    byte = builder.write_entry(builder.entry(5, 1, [builder.extent(0, 7000, 8)]), byte)
    builder.write_entry(builder.entry(6, 1), byte)
    builder.flip(builder.entries[6][1] + 32)
    found = await assert_found(builder)
    assert found.totals.live_keys == 30


async def test_an_entry_that_is_whole_and_cannot_be() -> None:
    builder = sound()
    entry, byte = builder.entries[3]
    raw = sealed(with_field(entry.pack(builder.set_magic), 168, "H", 17), 240 + 24 * len(entry.keys))
    builder.write(byte, raw)
    found = await check(builder)
    assert ("journal-entry", FATAL) in told(found)


async def test_nonsense_of_the_lap_before_is_in_nobody_s_way() -> None:
    builder = sound()
    byte = builder.write_entry(builder.entry(9, 9), journal_byte(builder, 2))
    entry = builder.entry(4, 1)
    raw = sealed(with_field(entry.pack(builder.set_magic), 168, "H", 17), 240)
    builder.write(byte, raw)
    await assert_found(builder, ("journal-entry", NOTE))


async def test_two_entries_of_one_number() -> None:
    builder = sound()
    other = replace(builder.entry(3), keys=(builder.extent(0, 1, 1),))
    builder.write_entry(other, journal_byte(builder, 3))
    found = await check(builder)
    assert ("journal-contradiction", FATAL) in told(found)
    builder.write_entry(builder.entry(4, 4), journal_byte(builder, 4))
    found = await check(builder)
    assert ("journal-contradiction", NOTE) in told(found)


async def test_buckets_out_of_the_ring_s_order() -> None:
    builder = sound()
    builder.write_entry(builder.entry(5, 5), journal_byte(builder, 2))
    builder.write_entry(builder.entry(4, 1), journal_byte(builder, 3))
    await assert_found(builder, ("journal-ring", DAMAGE))


@pytest.mark.parametrize(("seq", "lost"), [(7, "nothing here"), (10, "the changes in entry 10")])
async def test_an_old_bucket_with_an_entry_that_does_not_belong_there(seq: int, lost: str) -> None:
    builder = ImageBuilder(bucket_count=1024).finish()  # one entry, in the ring's bucket 1
    behind = builder.write_entry(builder.entry(2, 2), journal_byte(builder, 2))
    builder.write_entry(builder.entry(5, 5), journal_byte(builder, 3))
    builder.write_entry(builder.entry(8, 8), journal_byte(builder, 4))
    builder.write_entry(builder.entry(9, 9), journal_byte(builder, 5))
    await assert_found(builder)
    builder.write_entry(builder.entry(seq, 5), behind)
    found = await assert_found(builder, ("journal-ring", DAMAGE))
    assert f"entry 5 is behind entry {seq}" in found.findings.listed[0].problem
    assert found.findings.listed[0].lost.startswith(lost)


async def test_needed_buckets_out_of_the_ring_s_order() -> None:
    builder = ImageBuilder(bucket_count=1024).finish()  # one entry, in the ring's bucket 1
    builder.write_entry(builder.entry(3), journal_byte(builder, 2))
    builder.write_entry(builder.entry(2), journal_byte(builder, 3))
    found = await assert_found(builder, ("journal-ring", FATAL))
    assert "to end with entries [0, 1, 3, 2, 0, 0, 0, 0]" in found.findings.listed[0].problem


async def test_a_hole_in_the_ring_that_the_kernel_does_not_look_behind() -> None:
    builder = ImageBuilder(bucket_count=1024).finish(journal=[[], [], []])  # in the ring's bucket 1
    builder.write_entry(builder.entry(9, 9), journal_byte(builder, 3))
    found = await assert_found(builder, ("journal-ring", DAMAGE))
    assert "bisection ends at entry 3 of 9" in found.findings.listed[0].problem
    builder.write(journal_byte(builder, 1), bytes(builder.geometry.bucket_bytes))
    await assert_found(builder)  # it finds a bucket that is the only one


async def test_a_ring_may_have_turned() -> None:
    builder = ImageBuilder(bucket_count=1024)
    builder = builder.finish()
    for index in range(8):
        seq = 20 + (index - 5) % 8
        builder.write_entry(builder.entry(seq, 20), journal_byte(builder, index))
    await assert_found(builder)


async def test_an_entry_that_one_member_lacks() -> None:
    builder = sound(ImageBuilder(members=2))
    last = builder.write_entry(builder.entry(4), journal_byte(builder, 2), members=[0])
    await assert_found(builder, ("journal-mirror", NOTE))
    builder.write_entry(builder.entry(5), last, members=[0])
    builder.write_entry(builder.entry(5), journal_byte(builder, 2), members=[1])
    await assert_found(builder, ("journal-mirror", TORN))


# Prios.


def long_chain() -> ImageBuilder:
    return sound(ImageBuilder(bucket_sectors=8, bucket_count=3000))


@pytest.mark.parametrize("offset", [0, 8, 16, 32, 41, 4095])
@pytest.mark.parametrize("index", [0, 1, 2])
async def test_a_damaged_prio_set(index: int, offset: int) -> None:
    builder = long_chain()
    builder.flip(builder.geometry.byte_of(builder.prio_buckets[0][index]) + offset)
    found = await assert_found(builder, ("prio-chain", FATAL))
    assert found.findings.listed[0].lost == f"the gens of buckets {index * 1352} to 2999"


def resealed_set(builder: ImageBuilder, index: int, offset: int, layout: str, value: int) -> None:
    byte = builder.geometry.byte_of(builder.prio_buckets[0][index])
    raw = with_field(builder.images[0][byte : byte + 4096], offset, layout, value)
    builder.write(byte, sealed(raw, 4096))


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 1), (16, 8), (32, 0), (32, 3), (32, 3000), (32, 1 << 60)],
    ids=["magic", "seq", "reserved", "journal", "beyond", "far beyond"],
)
async def test_a_prio_set_that_is_whole_and_wrong(offset: int, value: int) -> None:
    builder = long_chain()
    resealed_set(builder, 1, offset, "Q", value)
    await assert_found(builder, ("prio-chain", FATAL))


async def test_a_prio_chain_that_bites_its_tail() -> None:
    builder = long_chain()
    resealed_set(builder, 1, 32, "Q", builder.prio_buckets[0][0])
    found = await assert_found(builder, ("prio-chain", FATAL))
    assert "a chain without a loop" in found.findings.listed[0].problem


async def test_where_gens_are_unknown_keys_are_not_called_stale() -> None:
    builder = ImageBuilder()
    builder = builder.finish(builder.node([builder.extent(0, 0, 8, dirty=True, gen=200)], gen=120))
    builder.flip(builder.geometry.byte_of(builder.prio_buckets[0][0]))
    found = await assert_found(builder, ("prio-chain", FATAL))
    assert found.totals.dirty_sectors == 8


async def test_the_last_set_may_point_anywhere() -> None:
    builder = long_chain()
    resealed_set(builder, 2, 32, "Q", builder.prio_buckets[0][0])
    await assert_found(builder)


# Volumes.


def uuid_byte(builder: ImageBuilder) -> int:
    return builder.byte_of(builder.uuid_key)


@pytest.mark.parametrize("byte", [72, 127, 128 * 5 + 16, 128 * 5 + 64])
async def test_a_slot_with_bytes_that_nobody_writes(byte: int) -> None:
    builder = sound()
    builder.flip(uuid_byte(builder) + byte)
    found = await assert_found(builder, ("volume-slot", FATAL))
    assert found.findings.listed[0].where.endswith(f"slot {byte // 128}")


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ({"other_flags": 2}, "volume-flags"),
        ({"other_flags": 1 << 31}, "volume-flags"),
        ({"invalidated": 1}, "volume-times"),
        ({"sectors": 1 << 63, "flash_only": True}, "volume-size"),
        ({"sectors": 8}, "volume-size"),
    ],
)
async def test_a_slot_that_nobody_writes_so(field: dict[str, int], rule: str) -> None:
    builder = sound()
    builder.volumes[0] = replace(PLAIN, **field)  # type: ignore[arg-type]
    builder.write_volumes()
    await assert_found(builder, (rule, FATAL))


async def test_a_client_s_bytes_are_no_volumes() -> None:
    builder = sound()
    for data in (b"text of some client\n" * 2000, bytes(range(256)) * 200, b"\0" * 15 + b"x" * 20000):
        builder.write(uuid_byte(builder), data[: builder.geometry.metadata_bytes])
        found = await check(builder)
        assert found.findings.worst == FATAL


async def test_a_volume_twice() -> None:
    builder = sound()
    builder.volumes += [FLASH]
    builder.write_volumes()
    await assert_found(builder, ("volume-doubled", FATAL))


async def test_a_flash_only_volume_without_a_size_and_a_size_without_one() -> None:
    builder = sound()
    builder.volumes[1] = replace(FLASH, sectors=0)
    builder.volumes += [UuidEntry(BURNT_UUID), UuidEntry(builder.superblocks[0].uuid, sectors=8)]
    builder.write_volumes()
    await assert_found(builder, ("volume-size", NOTE), ("volume-size", FATAL))


async def test_keys_of_a_volume_that_is_not_there() -> None:
    builder = sound()
    builder.volumes[0] = None
    builder.write_volumes()
    found = await assert_found(builder, ("volume-missing", DAMAGE))
    assert f"{found.totals.live_keys} live keys" in found.findings.listed[0].problem
    assert found.findings.listed[0].lost.startswith(f"{found.totals.dirty_sectors} dirty sectors")


async def test_dirty_data_of_a_volume_that_was_given_up_is_damage_and_of_a_deleted_one_a_note() -> None:
    builder = sound()
    builder.volumes[0] = UuidEntry(BURNT_UUID, invalidated=1704067300)
    builder.write_volumes()
    found = await assert_found(builder, ("volume-gone", DAMAGE))
    assert "given up on 2024-01-01" in found.findings.listed[0].problem
    assert found.findings.listed[0].lost.startswith(f"{found.totals.dirty_sectors} dirty sectors")
    builder.volumes[0] = UuidEntry(BURNT_UUID, sectors=1 << 16)
    builder.write_volumes()
    await assert_found(builder, ("volume-gone", NOTE))


def with_newest(builder: ImageBuilder, **fields: object) -> ImageBuilder:
    """Write a newer journal entry, with other places in it."""
    entry = replace(builder.entry(4), **fields)  # type: ignore[arg-type]
    builder.write_entry(entry, journal_byte(builder, 2))
    return builder


def moved(key: Key, sector: int, **fields: object) -> Key:
    values = {"inode": key.inode, "offset": key.offset, "sectors": key.sectors, "dirty": key.dirty}
    pointers = (Pointer(0, sector, key.pointers[0].gen),)
    return Key(**{**values, "pointers": pointers, **fields})  # type: ignore[arg-type]


def bad_node_keys(builder: ImageBuilder, key: Key) -> list[Key]:
    end = builder.geometry.bucket_count * builder.geometry.bucket_sectors
    return [
        moved(key, key.pointers[0].sector, pointers=()),
        moved(key, key.pointers[0].sector, sectors=0, offset=key.end),
        moved(key, key.pointers[0].sector, dirty=True),
        moved(key, key.pointers[0].sector + 1),  # across the bucket's end
        moved(key, 0),
        moved(key, end),
        moved(key, 0, pointers=(Pointer(3, key.pointers[0].sector, 0),)),
        moved(key, 0, pointers=key.pointers * 2),
    ]


@pytest.mark.parametrize("number", range(8))
async def test_a_uuid_table_that_cannot_be_where_it_is_said_to_be(number: int) -> None:
    builder = sound()
    bad = bad_node_keys(builder, builder.uuid_key)[number]
    found = await assert_found(with_newest(builder, uuid_bucket=bad), ("uuid-bucket", FATAL))
    assert found.findings.listed[0].lost == "all volumes"
    assert found.totals.live_keys > 20


@pytest.mark.parametrize("number", range(8))
async def test_a_root_that_cannot_be_where_it_is_said_to_be(number: int) -> None:
    builder = sound()
    bad = bad_node_keys(builder, builder.root)[number]
    found = await assert_found(with_newest(builder, root=bad), ("btree-root", FATAL))
    assert found.totals.live_keys == 2, "the journal's keys are there nevertheless"


async def test_a_root_that_ends_before_the_keys_do() -> None:
    builder = ImageBuilder()
    builder.finish(builder.node([builder.extent(0, 0, 8)], position=(0, 1 << 20)))
    await assert_found(builder, ("root-position", FATAL))


async def test_the_uuid_table_in_a_prio_bucket() -> None:
    builder = sound()
    sector = builder.geometry.sector_of(builder.prio_buckets[0][0])
    with_newest(builder, uuid_bucket=moved(builder.uuid_key, sector))
    found = await check(builder)
    assert ("bucket-shared", FATAL) in told(found)


async def test_a_uuid_table_and_a_root_that_are_stale() -> None:
    builder = sound()
    for key in (builder.uuid_key, builder.root):
        builder.gens[0][key.pointers[0].sector // 64] = 1
    builder.write_prios(0)
    await assert_found(builder, ("pointer-stale", FATAL), ("pointer-stale", FATAL))


# Nodes.


@pytest.mark.parametrize("offset", [0, 8, 28, 29, 40, 55])
async def test_a_damaged_root_loses_the_tree(offset: int) -> None:
    builder = sound()
    builder.flip(builder.byte_of(builder.root) + offset)
    found = await assert_found(builder, ("node-damaged", FATAL))
    assert found.totals.live_keys == 2


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_damaged_leaf_loses_its_keys_and_no_others(number: int) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1)
    builder.flip(builder.byte_of(leaves[number]) + 40)
    found = await assert_found(builder, ("node-damaged", FATAL))
    assert found.findings.listed[0].lost.startswith(
        "10 keys of 80 sectors, 40 of them dirty (5 keys), from inode 0"
    )
    assert found.totals.live_keys == 20


def header(builder: ImageBuilder, key: Key, offset: int, layout: str, value: int) -> None:
    """Overwrite a field of a node's first bset, of one key, and put its checksum right."""
    byte = builder.byte_of(key)
    raw = bytes(builder.images[0][byte : byte + 512])
    raw = bytes(with_field(raw, offset, layout, value))
    builder.write(byte, sealed(raw, 32 + 24, key.pointers[0].sector << 8 | key.pointers[0].gen))


@pytest.mark.parametrize(
    ("offset", "layout", "value"), [(16, "Q", 0), (24, "I", 2), (8, "Q", 5), (28, "I", 1 << 20)]
)
async def test_a_node_that_is_whole_and_wrong(offset: int, layout: str, value: int) -> None:
    builder = ImageBuilder()
    root = builder.node([builder.extent(0, 0, 8)])
    builder.finish(root)
    header(builder, root, offset, layout, value)
    await assert_found(builder, ("node-damaged", FATAL))


async def test_a_later_bset_with_no_keys() -> None:
    builder = ImageBuilder()
    builder.finish(builder.node([builder.extent(0, 0, 8)], [], [builder.extent(0, 8, 8)]))
    found = await assert_found(builder, ("node-damaged", FATAL))
    assert found.totals.live_keys == 2


async def test_a_bset_behind_a_gap() -> None:
    builder = ImageBuilder()
    root = builder.node([builder.extent(0, 0, 8)])
    builder.finish(root)
    byte = builder.byte_of(root)
    builder.write(byte + 3 * 4096, bytes(builder.images[0][byte : byte + 512]))
    found = await assert_found(builder, ("node-damaged", FATAL))
    assert found.totals.live_keys == 1


async def test_what_another_node_left_behind_is_nothing() -> None:
    builder = ImageBuilder()
    key = builder.node_key()
    builder.write_node(key, [builder.extent(0, 0, 8)], [builder.extent(0, 8, 8)], seq=77)
    builder.write_node(key, [builder.extent(0, 16, 8)], seq=78)
    found = await assert_found(builder.finish(key))
    assert found.totals.live_keys == 1


def appended(builder: ImageBuilder, *bsets: int) -> tuple[Key, list[int]]:
    """A leaf of several bsets of so many keys each, and the bytes at which they begin."""
    extents = [
        [builder.extent(0, 1000 * n + 8 * i, 8, dirty=i == 0) for i in range(count)]
        for n, count in enumerate(bsets)
    ]
    root = builder.node(*extents)
    builder.finish(root)
    return root, [builder.byte_of(root) + builder.geometry.block_bytes * n for n in range(len(bsets))]


@pytest.mark.parametrize("bit", [0, 7, 31, 63])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_bset_whose_seq_was_changed_is_no_former_node_s(number: int, bit: int) -> None:
    builder = ImageBuilder()
    _, bytes_of = appended(builder, 4, 3, 2)
    builder.images[0][bytes_of[number] + 16 + bit // 8] ^= 1 << bit % 8
    found = await assert_found(builder, ("node-damaged", FATAL))
    keys = [4, 3, 2][number]
    assert found.findings.listed[0].lost.startswith(
        f"{keys} keys of {8 * keys} sectors, 8 of them dirty (1 keys)"
    )
    assert found.totals.live_keys == 9 - keys


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("offset", [0, 8, 17, 24, 28, 30, 40])
async def test_the_sound_bsets_behind_a_damaged_one_count(number: int, offset: int) -> None:
    builder = ImageBuilder()
    _, bytes_of = appended(builder, 4, 3, 2, 1, 6)
    builder.flip(bytes_of[number] + offset)
    found = await assert_found(builder, ("node-damaged", FATAL))
    counts = [4, 3, 2, 1, 6]
    behind = counts[number + 1 :]
    assert found.totals.live_keys == 16 - counts[number]
    words = f"not lost are {sum(behind)} keys of {8 * sum(behind)} sectors, {8 * len(behind)} of them dirty"
    assert words in found.findings.listed[0].lost
    assert f"in {len(behind)} sound bsets behind it" in found.findings.listed[0].lost


async def test_a_bset_that_says_it_is_longer_than_it_is_hides_none_behind_it() -> None:
    """The journal has keys of the leaf, so that a last bset with a wrong checksum would be a torn one."""
    builder = ImageBuilder()
    extents = [builder.extent(0, 8 * n, 8) for n in range(3)]
    root = builder.node(*[[extent] for extent in extents])
    builder.finish(root, 0, [extents])
    builder.write(builder.byte_of(root) + 4096 + 28, (1000).to_bytes(4, "little"))
    await assert_found(builder, ("node-damaged", FATAL))


async def test_keys_that_are_not_in_order_or_beyond_the_node() -> None:
    for places, position in (([(0, 8), (0, 0)], MAX_POSITION), ([(0, 0), (0, 100)], (0, 50))):
        builder = ImageBuilder()
        extents = [builder.extent(inode, offset, 8) for inode, offset in places]
        only = builder.node(extents, position=position)
        rest = builder.node([])
        root = only if position == MAX_POSITION else builder.node([only, rest])
        builder.finish(root, int(root is not only))
        await assert_found(builder, ("node-damaged", FATAL))


async def test_a_key_before_its_node() -> None:
    builder = ImageBuilder()
    first = builder.node([builder.extent(0, 0, 8)], position=(0, 1000))
    second = builder.node([builder.extent(0, 996, 8), builder.extent(0, 2000, 8)])
    found = await assert_found(builder.finish(builder.node([first, second]), 1), ("key-misplaced", FATAL))
    assert found.totals.live_keys == 2


async def test_keys_of_one_bset_that_overlap() -> None:
    builder = ImageBuilder()
    builder.finish(builder.node([builder.extent(0, 0, 8), builder.extent(0, 4, 8)]))
    await assert_found(builder, ("key-order", DAMAGE))


def torn(builder: ImageBuilder, key: Key, *, offset: int = 4096 + 40) -> None:
    builder.flip(builder.byte_of(key) + offset)


def interrupted(builder: ImageBuilder, key: Key) -> None:
    """Of the second bset, only the first sector was written."""
    builder.write(builder.byte_of(key) + 4096 + 512, bytes(4096 - 512))


def many(builder: ImageBuilder) -> list[Key]:
    """Keys for a bset of more than a sector."""
    return [builder.extent(0, 8 * n, 8, dirty=True) for n in range(1, 31)]


async def test_a_torn_append_of_a_leaf_whose_keys_the_journal_has() -> None:
    builder = ImageBuilder()
    late = many(builder)
    root = builder.node([builder.extent(0, 0, 8)], late)
    interrupted(builder.finish(root, 0, [late]), root)
    found = await assert_found(builder, ("node-torn", TORN))
    assert found.totals.live_keys == 31


@pytest.mark.parametrize(
    ("lacking", "rule", "severity"), [(0, "node-torn", TORN), (30, "node-erased", DAMAGE)]
)
async def test_an_append_of_which_only_the_end_was_written(
    lacking: int, rule: str, severity: Severity
) -> None:
    """A device may write the sectors of an append in any order, or they were erased later."""
    builder = ImageBuilder()
    late = many(builder)
    root = builder.node([builder.extent(0, 0, 8)], late)
    builder.finish(root, 0, [late[lacking:]])
    builder.write(builder.byte_of(root) + 4096, bytes(SECTOR))
    found = await assert_found(builder, (rule, severity))
    assert found.totals.live_keys == 31 - lacking


async def test_a_leaf_was_not_torn_if_the_journal_lacks_keys_of_it_that_were_written() -> None:
    builder = ImageBuilder()
    late = many(builder)
    root = builder.node([builder.extent(0, 0, 8)], late)
    interrupted(builder.finish(root, 0, [late[1:]]), root)
    await assert_found(builder, ("node-damaged", FATAL))


@pytest.mark.parametrize("offset", [4096 + 40, 4096 + 512 + 40])
async def test_what_is_wrong_within_a_sector_is_no_torn_append_even_if_the_journal_has_all(
    offset: int,
) -> None:
    builder = ImageBuilder()
    late = many(builder)
    root = builder.node([builder.extent(0, 0, 8)], late)
    torn(builder.finish(root, 0, [late]), root, offset=offset)
    await assert_found(builder, ("node-damaged", FATAL))


async def test_a_bset_of_one_sector_is_never_torn() -> None:
    builder = ImageBuilder()
    late = many(builder)[:1]
    root = builder.node([builder.extent(0, 0, 8)], late)
    torn(builder.finish(root, 0, [late]), root)
    await assert_found(builder, ("node-damaged", FATAL))


async def test_a_torn_append_of_a_leaf_of_which_the_journal_knows_nothing() -> None:
    builder = ImageBuilder()
    root = builder.node([builder.extent(0, 0, 8)], [builder.extent(0, 8, 8, dirty=True)])
    torn(builder.finish(root), root)
    found = await assert_found(builder, ("node-damaged", FATAL))
    assert found.findings.listed[0].lost.startswith("1 keys of 8 sectors, 8 of them dirty")


async def test_a_bset_that_is_not_the_last_was_not_torn() -> None:
    builder = ImageBuilder()
    kept, late = builder.extent(0, 0, 8), builder.extent(0, 8, 8)
    root = builder.node([kept], [late], [builder.extent(0, 16, 8)])
    torn(builder.finish(root, 0, [[late]]), root)
    await assert_found(builder, ("node-damaged", FATAL))


async def test_nor_was_the_first_bset_of_a_node() -> None:
    builder = ImageBuilder()
    kept = builder.extent(0, 0, 8)
    root = builder.node([kept])
    torn(builder.finish(root, 0, [[kept]]), root, offset=40)
    await assert_found(builder, ("node-damaged", FATAL))


def leaves(builder: ImageBuilder, *, end: int) -> list[Key]:
    """Leaves for an interior bset of more than a sector."""
    return [builder.node([], position=(0, 8 * n)) for n in range(1, 31)] + [
        builder.node([], position=(0, end))
    ]


async def test_a_torn_append_of_an_interior_node_without_which_children_are_missing() -> None:
    builder = ImageBuilder()
    first, last = builder.node([], position=(0, 4)), builder.node([])
    root = builder.node([first], [*leaves(builder, end=1000), last])
    interrupted(builder.finish(root, 1), root)
    await assert_found(builder, ("node-torn", TORN), ("node-last-child", FATAL))


async def test_a_torn_append_of_an_interior_node_has_not_taken_effect() -> None:
    builder = ImageBuilder()
    leaf_key = builder.node([builder.extent(0, 0, 8)])
    root = builder.node([leaf_key], [builder.freeing(leaf_key), *leaves(builder, end=1000)])
    interrupted(builder.finish(root, 1), root)
    found = await assert_found(builder, ("node-torn", TORN))
    assert found.totals.live_keys == 1


async def test_a_damaged_append_of_an_interior_node_had_taken_effect() -> None:
    builder = ImageBuilder()
    leaf_key = builder.node([builder.extent(0, 0, 8)])
    half = builder.node([builder.extent(0, 0, 8)], position=(0, 100))
    root = builder.node([leaf_key], [builder.freeing(leaf_key), half])
    torn(builder.finish(root, 1), root)
    await assert_found(builder, ("node-damaged", FATAL))


# Interior nodes.


async def test_a_replaced_child_with_its_freeing_key_is_sound() -> None:
    builder = ImageBuilder()
    extents = [builder.extent(0, 0, 8), builder.extent(0, 100, 8)]
    old = builder.node(extents)
    halves = [builder.node(extents[:1], position=(0, 50)), builder.node(extents[1:])]
    found = await assert_found(builder.finish(builder.node([old], [builder.freeing(old), *halves]), 1))
    assert found.totals.live_keys == 2
    assert found.tree is not None
    assert found.tree.nodes_by_level == {1: 1, 0: 2}


async def test_children_that_were_coalesced_are_sound() -> None:
    builder = ImageBuilder()
    extents = [builder.extent(0, 0, 8), builder.extent(0, 100, 8)]
    old = [builder.node(extents[:1], position=(0, 50)), builder.node(extents[1:])]
    one = builder.node(extents)
    root = builder.node(old, [*map(builder.freeing, old), one])
    assert (await assert_found(builder.finish(root, 1))).totals.live_keys == 2


async def test_a_gen_on_disk_ahead_of_a_child_makes_it_vanish() -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1)
    builder.gens[0][leaves[1].pointers[0].sector // 64] = 1
    builder.write_prios(0)
    found = await assert_found(builder, ("node-vanished", DAMAGE))
    assert found.findings.listed[0].lost == "the keys from inode 0 sector 1000 to inode 0 sector 2000"
    assert found.totals.live_keys == 20


async def test_the_last_child_vanished() -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1)
    builder.gens[0][leaves[2].pointers[0].sector // 64] = 1
    builder.write_prios(0)
    await assert_found(builder, ("node-vanished", DAMAGE), ("node-last-child", FATAL))


async def test_a_last_child_that_does_not_reach_the_end() -> None:
    builder = ImageBuilder()
    only = builder.node([builder.extent(0, 0, 8)], position=(0, 16384))
    await assert_found(builder.finish(builder.node([only]), 1), ("node-last-child", FATAL))


async def test_an_interior_node_without_children() -> None:
    builder = ImageBuilder()
    await assert_found(builder.finish(builder.node([]), 1), ("node-last-child", FATAL))


async def test_two_live_leaves_at_one_position_are_one_over_the_other() -> None:
    for appended in (False, True):
        builder = ImageBuilder()
        older = builder.node([builder.extent(0, 0, 8), builder.extent(0, 100, 8, dirty=True)])
        newer = builder.node([builder.extent(0, 4, 8), Key(0, 100, 6, False, ())])
        root = builder.node([older], [newer]) if appended else builder.node([newer, older])
        found = await assert_found(builder.finish(root, 1), ("node-doubled", NOTE))
        assert (found.totals.live_keys, found.totals.clean_sectors, found.totals.dirty_sectors) == (3, 12, 2)


async def test_two_live_interior_nodes_at_one_position() -> None:
    builder = ImageBuilder()
    children = [builder.node([builder.node([builder.extent(0, 0, 8)])]) for _ in range(2)]
    await assert_found(builder.finish(builder.node(children), 2), ("node-doubled", FATAL))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
async def test_a_child_that_cannot_be(number: int) -> None:
    builder = ImageBuilder()
    good = builder.node([], position=(0, 1000))
    bad = bad_node_keys(builder, builder.node_key((0, 2000)))[number]
    last = builder.node([])
    found = await assert_found(builder.finish(builder.node([good, bad, last]), 1), ("node-child", FATAL))
    assert found.tree is not None
    assert found.tree.nodes_by_level == {1: 1, 0: 2}


async def test_a_node_that_contains_itself() -> None:
    builder = ImageBuilder()
    key = builder.node_key()
    builder.finish(builder.write_node(key, [key]), 3)
    await assert_found(builder, ("bucket-shared", FATAL))


async def test_one_leaf_under_two_positions() -> None:
    builder = ImageBuilder()
    twice = builder.node([builder.extent(0, 0, 8)])
    first = Key(0, 100 - twice.sectors, twice.sectors, False, twice.pointers)
    builder.finish(builder.node([first, twice]), 1)
    found = await check(builder)
    assert told(found) == [("bucket-shared", FATAL)]


async def test_a_node_in_a_journal_bucket() -> None:
    builder = ImageBuilder()
    sector = builder.geometry.sector_of(builder.superblocks[0].journal_buckets[3])
    key = Key(0, 0, 64, False, (Pointer(0, sector, 0),))
    builder.finish(builder.node([moved(key, sector, offset=36), builder.node([])]), 1)
    await assert_found(builder, ("bucket-shared", FATAL))


async def test_a_level_that_is_not_the_tree_s() -> None:
    builder = sound()
    found = await check(with_newest(builder, level=0))
    assert not found.findings.sound
    found = await check(with_newest(sound(), level=2))
    assert not found.findings.sound


# Keys.


async def test_extents_that_cannot_be() -> None:
    builder = ImageBuilder()
    sector = builder.geometry.sector_of(builder.bucket())
    end = 640 * 64
    for bad in (
        Key(0, 0, 8, False, (Pointer(0, sector + 60, 0),)),
        Key(0, 0, 8, False, (Pointer(0, 8, 0),)),
        Key(0, 0, 8, True, (Pointer(0, end, 0),)),
        Key(0, 0, 8, True, (Pointer(1, sector, 0),)),
        Key(0, -4, 8, False, (Pointer(0, sector, 0),)),
    ):
        await assert_found(leaf(bad), ("key-invalid", FATAL))
        builder = ImageBuilder()
        await assert_found(builder.finish(journal=[[bad]]), ("key-invalid", FATAL))


async def test_deletions_placeholders_and_keys_of_no_sectors_are_sound() -> None:
    builder = ImageBuilder()
    below = [builder.extent(0, 0, 24), builder.extent(0, 100, 8), builder.extent(0, 200, 8)]
    above = [
        Key(0, 0, 8, False, ()),
        Key(0, 16, 4, False, (Pointer(0xFFF, 0, 0),)),
        Key(0, 30, 0, False, (Pointer(0, 1 << 40, 9),)),
    ]
    found = await assert_found(builder.finish(builder.node(below, above)))
    assert found.totals.live_keys == 4
    assert found.totals.clean_sectors == 12 + 16


async def test_a_dirty_key_that_is_stale() -> None:
    builder = leaf()
    builder = ImageBuilder()
    key = builder.extent(0, 40, 8, dirty=True)
    builder.finish(builder.node([key]))
    builder.gens[0][key.pointers[0].sector // 64] = 1
    builder.write_prios(0)
    found = await assert_found(builder, ("key-stale-dirty", DAMAGE))
    assert found.findings.listed[0].lost == "8 dirty sectors"
    assert found.findings.listed[0].where.startswith("inode 0 sector 40")
    assert found.totals.dirty_sectors == 0


async def test_a_clean_key_that_is_stale_is_nothing() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 40, 8)
    builder.gens[0][key.pointers[0].sector // 64] = 96
    found = await assert_found(builder.finish(builder.node([key])))
    assert (found.totals.keys, found.totals.live_keys) == (1, 0)


async def test_a_stale_dirty_key_that_a_later_one_covers_is_nothing() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 40, 8, dirty=True)
    builder.gens[0][key.pointers[0].sector // 64] = 1
    later = builder.extent(0, 0, 64)
    await assert_found(builder.finish(builder.node([key]), 0, [[later]]))


@pytest.mark.parametrize(("gen", "expected"), [(96, []), (97, [("gens-apart", FATAL)])])
async def test_a_key_that_is_too_stale(gen: int, expected: list[tuple[str, Severity]]) -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 40, 8)
    builder.gens[0][key.pointers[0].sector // 64] = gen
    await assert_found(builder.finish(builder.node([key])), *expected)


@pytest.mark.parametrize(("gen", "expected"), [(96, []), (97, [("gen-ahead", FATAL)])])
async def test_a_key_too_far_ahead_of_the_gen_on_disk(gen: int, expected: list[tuple[str, Severity]]) -> None:
    builder = ImageBuilder()
    found = await assert_found(builder.finish(builder.node([builder.extent(0, 0, 8, gen=gen)])), *expected)
    assert found.totals.live_keys == 1


async def test_a_key_below_one_of_the_journal_s_that_is_too_stale() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 40, 8)
    builder.gens[0][key.pointers[0].sector // 64] = 97
    later = builder.extent(0, 0, 64)
    await assert_found(builder.finish(builder.node([key]), 0, [[later]]), ("gens-apart", FATAL))


@pytest.mark.parametrize(("gen", "expected"), [(96, []), (97, [("gen-ahead", FATAL)])])
async def test_a_root_too_far_ahead_of_the_gen_on_disk(
    gen: int, expected: list[tuple[str, Severity]]
) -> None:
    builder = ImageBuilder()
    await assert_found(builder.finish(builder.node((), gen=gen)), *expected)


async def test_live_keys_that_share_sectors() -> None:
    for dirty in (False, True):
        builder = ImageBuilder()
        key = builder.extent(0, 0, 8, dirty=dirty)
        sector = key.pointers[0].sector
        other = Key(0, 100, 8, False, (Pointer(0, sector + 4, 0),))
        beside = Key(0, 200, 8, False, (Pointer(0, sector + 12, 0),))
        builder.finish(builder.node([key, other, beside]))
        found = await assert_found(builder, ("key-overlap", DAMAGE))
        assert f"sector {sector + 4}" in found.findings.listed[0].where
        assert "0:0" in found.findings.listed[0].problem
        assert "0:100" in found.findings.listed[0].problem


async def test_a_long_extent_over_several_short_ones() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 0, 64)
    sector = key.pointers[0].sector
    others = [Key(0, 100 * n, 2, False, (Pointer(0, sector + 10 * n, 0),)) for n in (1, 2, 3)]
    found = await check(builder.finish(builder.node([key, *others])))
    assert told(found) == [*[("key-overlap", DAMAGE)] * 3, ("bucket-crowded", FATAL)]


@pytest.mark.parametrize("in_journal", [False, True])
async def test_more_in_a_bucket_than_it_holds(in_journal: bool) -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 0, 64)
    other = Key(0, 100, 8, False, key.pointers)
    builder.finish(builder.node([key] if in_journal else [key, other]), 0, [[other] if in_journal else []])
    found = await assert_found(builder, ("key-overlap", DAMAGE), ("bucket-crowded", FATAL))
    assert found.findings.listed[1].problem.startswith("keys for 72 sectors lie in its 64")


async def test_a_stale_key_shares_with_nobody() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 0, 8, gen=3)
    stale = Key(0, 100, 8, False, (Pointer(0, key.pointers[0].sector, 2),))
    await assert_found(builder.finish(builder.node([key, stale])))


@pytest.mark.parametrize("use", ["journal", "prio", "uuid", "btree"])
async def test_data_in_a_bucket_of_metadata(use: str) -> None:
    builder = ImageBuilder()
    root = builder.node_key()
    # Where finish() puts them: uuids behind all that was taken, prios behind those.
    places = {"journal": 3, "uuid": builder._next_bucket[0], "prio": builder._next_bucket[0] + 1}
    bucket = places.get(use, root.pointers[0].sector // 64)
    key = Key(0, 0, 8, False, (Pointer(0, bucket * 64, 0),))
    builder.finish(builder.write_node(root, [key]))
    found = await assert_found(builder, ("bucket-shared", FATAL))
    assert f"it is used for {use.lower()}" in found.findings.listed[0].problem


@pytest.mark.parametrize("in_leaf", [False, True])
async def test_a_key_for_a_bucket_of_metadata_that_a_later_one_covers(in_leaf: bool) -> None:
    builder = ImageBuilder()
    root = builder.node_key()
    key = Key(0, 0, 8, False, (Pointer(0, root.pointers[0].sector, 0),))
    later = builder.extent(0, 0, 8)
    builder.write_node(root, [key] if in_leaf else [])
    builder.finish(root, 0, [[later] if in_leaf else [key, later]])
    await assert_found(builder, ("bucket-shared", FATAL))


async def test_a_node_whose_bucket_s_gen_has_moved_on() -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    key = Key(0, 5000, 8, False, (Pointer(0, leaves[0].pointers[0].sector, 1),))
    builder.finish(root, 1, [[key]])
    await assert_found(builder, ("pointer-stale", FATAL), ("bucket-shared", FATAL))


async def test_copies_on_several_members() -> None:
    builder = ImageBuilder(members=2)
    one, two = builder.extent(0, 0, 8, dirty=True), builder.extent(0, 0, 8, member=1)
    both = Key(0, 0, 8, True, one.pointers + two.pointers)
    root = builder.node([both], member=1)
    found = await assert_found(builder.finish(root))
    assert (found.totals.live_keys, found.totals.dirty_sectors) == (1, 8)
    builder.gens[1][two.pointers[0].sector // 64] = 1
    builder.write_prios(1)
    await assert_found(builder, ("key-stale-dirty", DAMAGE))


async def test_one_damage_in_many_places_is_told_a_hundred_times_and_counted() -> None:
    builder = ImageBuilder()
    bucket = builder.bucket()
    keys = [Key(0, 10 * n, 8, True, (Pointer(0, bucket * 64 + n % 50, 0),)) for n in range(150)]
    builder.gens[0][bucket] = 1
    found = await check(builder.finish(builder.node(keys)))
    assert len(found.findings.listed) == FINDINGS_OF_A_RULE_MAX
    assert found.findings.unlisted() == {"key-stale-dirty": 50}


# What comes from anywhere.


@pytest.mark.parametrize("seed", range(40))
async def test_no_damage_stops_it(seed: int) -> None:
    """Bytes overwritten at random places of the metadata: found or harmless, never an exception."""
    rng = Random(seed)
    builder = long_chain() if seed % 2 else sound()
    places = [
        SUPERBLOCK,
        journal_byte(builder, 1),
        uuid_byte(builder),
        builder.byte_of(builder.root),
        builder.geometry.byte_of(builder.prio_buckets[0][0]),
        *(builder.geometry.byte_of(bucket) for bucket in range(8, 20)),
    ]
    for _ in range(rng.randrange(1, 40)):
        length = rng.choice([1, 2, 8, 300])
        builder.write(rng.choice(places) + rng.randrange(900), rng.randbytes(length))
    found = await check(builder)
    assert isinstance(found.findings, Findings)


small_keys = st.builds(
    Key,
    inode=st.sampled_from([0, 1, 5, (1 << 20) - 1]),
    offset=st.integers(-100, 300),
    sectors=st.sampled_from([0, 1, 4, 8, 300]),
    dirty=st.booleans(),
    pointers=st.lists(
        st.builds(
            Pointer,
            device=st.sampled_from([0, 0, 0, 1, 7, 8, 0xFFF]),
            sector=st.integers(0, 900) | st.sampled_from([10239, 10240, (1 << 43) - 1]),
            gen=st.sampled_from([0, 1, 100, 200, 255]),
        ),
        max_size=3,
    ).map(tuple),
).filter(lambda key: key.end >= 0)
any_keys = st.lists(small_keys | keys(), max_size=6)


@settings(derandomize=True, max_examples=150)
@given(
    st.lists(any_keys, min_size=1, max_size=3),
    st.lists(any_keys, max_size=3),
    st.integers(0, 3),
    st.none() | small_keys,
    st.none() | small_keys,
    st.lists(st.sampled_from([0, 2, 3, 70, 639, 640, 1 << 63]), min_size=8, max_size=8),
)
def test_whatever_keys_there_are_with_good_checksums_nothing_stops_it(
    bsets: list[list[Key]],
    journal: list[list[Key]],
    level: int,
    uuid_bucket: Key | None,
    root: Key | None,
    heads: list[int],
) -> None:
    builder = ImageBuilder(bucket_sectors=16, block_sectors=1)
    builder.finish(builder.node(*bsets), level, [[], *journal])
    odd = [head for head in heads if head not in {0, 70}]
    entry = replace(
        builder.entry(len(journal) + 2),
        uuid_bucket=uuid_bucket or builder.uuid_key,
        root=root or builder.root,
        prio_heads=tuple(heads) if len(odd) > 5 else builder.entry(1).prio_heads,
    )
    builder.write_entry(entry, journal_byte(builder, 4))
    found = asyncio.run(check(builder))
    assert found.journal is not None
    assert found.totals.live_keys <= found.totals.keys


async def test_whichever_read_fails_it_is_told_and_the_rest_is_read() -> None:
    builder = sound()
    (device,) = builder.devices()
    counting = FailingDevice(device)
    assert (await check_set([counting])).findings.sound
    for count in range(1, counting.calls["read"] + 1):
        found = await check_set([FailingDevice(device, Fault("read", count))])
        assert not found.findings.sound, f"read {count}"
        assert "cannot read" in found.findings.listed[0].problem
