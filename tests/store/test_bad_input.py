# SPDX-License-Identifier: GPL-2.0-only
"""Each field of each structure wrong in turn: one clear line says so, and nothing is written on any device.

It is the whole opening that is tested here, as the daemon does it.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bcached.errors import BcachedError
from bcached.format.jset import JournalEntry
from bcached.format.superblock import FEATURE_INCOMPAT_BCACHED_SET, Superblock
from bcached.keys import Key, Pointer
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.store.reading.set_reader import read_set
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.format_samples import EXTENT, sealed, with_field
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.used_set import (
    BUCKET_BYTES,
    COPY_AT,
    SUPERBLOCK_AT,
    Image,
    fresh_devices,
    used_devices,
)

Spoil = Callable[[Image], object]
Case = tuple[str, Spoil, str]


def in_turn(*spoils: Spoil) -> Spoil:
    def spoil(image: Image) -> None:
        for one in spoils:
            one(image)

    return spoil


NODE = 8  # sectors of the uuid table and of the root


async def refusal(devices: Sequence[MemoryDevice], folder: Path) -> str:
    """What the opening says, having been refused without a write."""
    recorders = [await RecordingDevice.over(device) for device in devices]
    before = [device.image() for device in devices]
    with pytest.raises(BcachedError) as refused:
        async with running(recorders, SetOptions(str(folder), str(folder), restart_grace_s=0)):
            pass
    for recorder in recorders:
        assert {entry.kind for entry in recorder.log.entries} <= {"flush"}
    assert [device.image() for device in devices] == before
    assert not any(device.disk.is_open for device in devices), "refused, they are closed"
    assert list(folder.iterdir()) == [], "and nobody's lease or map is left behind"
    text = str(refused.value)
    assert "\n" not in text
    return text


def superblock(offset: int, layout: str, value: int | bytes) -> Spoil:
    return lambda image: image.spoil_superblock(offset, layout, value)


def features(offset: int, value: int) -> Spoil:
    def spoil(image: Image) -> None:
        image.spoil_superblock(16, "Q", 5)
        image.spoil_superblock(offset, "Q", value)

    return spoil


def entry(offset: int, layout: str, value: int) -> Spoil:
    return lambda image: image.spoil_entry(offset, layout, value)


def place(name: str, pointer: Callable[[Image], Pointer], **fields: Any) -> Spoil:
    """The newest entry's key of the uuid table or of the root with another pointer, or other fields."""

    def spoil(image: Image) -> None:
        key: Key = getattr(image.newest, name)
        sectors = fields.get("sectors", key.sectors)
        values = {"inode": key.inode, "offset": key.end - sectors, "sectors": sectors, "dirty": False}
        changed = Key(**{**values, "pointers": (pointer(image),), **fields})
        image.write_entry(**{name: changed})

    return spoil


def pointer_of(name: str, **fields: Any) -> Callable[[Image], Pointer]:
    """The pointer there is, with other fields."""

    def pointer(image: Image) -> Pointer:
        there = getattr(image.newest, name).pointers[0]
        return Pointer(**{"device": there.device, "sector": there.sector, "gen": there.gen, **fields})

    return pointer


def moved(name: str, ahead: int) -> Callable[[Image], Pointer]:
    return lambda image: pointer_of(name, gen=getattr(image.newest, name).pointers[0].gen + ahead & 255)(
        image
    )


SUPERBLOCK: list[Case] = [
    ("backing device", superblock(16, "Q", 1), "is a bcache backing device .*, not a cache device"),
    ("version never used", superblock(16, "Q", 2), "version: .* found 2"),
    ("version to come", superblock(16, "Q", 7), "version: .* found 7"),
    ("wiped magic", superblock(24, "16s", bytes(16)), "superblock at .* expected c68573f6.*, found 0000"),
    ("no uuid", superblock(40, "16s", bytes(16)), "uuid: expected not zero, found zero"),
    ("no set uuid", superblock(56, "16s", bytes(16)), "set_uuid: expected not zero"),
    ("another set's uuid", superblock(56, "16s", b"x" * 16), "no journal entries found"),
    *[
        (f"policy {policy}", superblock(104, "Q", 1 | policy << 2), f"flags: .* found replacement {policy}")
        for policy in range(3, 8)
    ],
    ("compatible feature", features(120, 1), "feature_compat: expected no unknown bit, found 0x1"),
    ("large buckets of old", features(128, 1), "feature_incompat: expected no unknown bit, found 0x1"),
    ("incompatible feature", features(128, 1 << 40), "feature_incompat: expected no unknown bit"),
    ("read-only feature", features(136, 1), "feature_ro_compat: expected no unknown bit, found 0x1"),
    (
        "a set's feature",
        features(128, FEATURE_INCOMPAT_BCACHED_SET),
        "feature_incompat is 0x4.*, expected 0x0",
    ),
    ("logarithm too large", features(128, 2), "bucket_size: expected .*, found|nbuckets: "),
    ("few buckets", superblock(184, "Q", 512), "nbuckets: expected at least 513, found 512"),
    ("no buckets", superblock(184, "Q", 0), "nbuckets: expected at least 513, found 0"),
    ("more buckets than there are", superblock(184, "Q", 531), "nbuckets: expected what a device of"),
    ("more buckets than can be", superblock(184, "Q", 1 << 63), "nbuckets: expected at most"),
    ("no block", superblock(192, "H", 0), "block_size: expected at least the device's logical block"),
    ("odd block", superblock(192, "H", 3), "block_size: expected a power of two, found 3"),
    ("large block", superblock(192, "H", 256), "block_size: expected at most 128, found 256"),
    ("no bucket", superblock(194, "H", 0), "bucket_size: expected a power of two, found 0"),
    ("small bucket", superblock(194, "H", 4), "bucket_size: expected at least 8, found 4"),
    ("odd bucket", superblock(194, "H", 24), "bucket_size: expected a power of two, found 24"),
    ("large bucket", superblock(194, "H", 16), "nbuckets: expected what a device of"),
    ("no members", superblock(196, "H", 0), "nr_in_set: expected 1 to 8, found 0"),
    ("many members", superblock(196, "H", 9), "nr_in_set: expected 1 to 8, found 9"),
    ("a member more", superblock(196, "H", 2), "its set has 2 members, but 1 were given"),
    ("a number too high", superblock(198, "H", 1), "nr_this_dev: expected below 1, found 1"),
    ("first bucket 0", superblock(204, "H", 0), "d: expected buckets 0 to 3 in sequence"),
    ("first bucket elsewhere", superblock(204, "H", 9), "d: expected buckets 9 to 12 in sequence"),
    ("no journal", superblock(206, "H", 0), "njournal_buckets: expected at least 1, since SYNC is set"),
    ("a journal of one", superblock(206, "H", 1), "has a journal of 1 bucket, and at least 2 are needed"),
    ("a journal out of order", superblock(216, "Q", 100), "d: expected buckets 3 to 6 in sequence"),
]

ENTRY: list[Case] = [
    ("huge seq", entry(16, "Q", (1 << 64) - 1), "at most 9223372036854775807, found 18446744073709551615"),
    ("seq below last_seq", entry(16, "Q", 2), "last_seq: expected 1 to seq 2, found 3"),
    ("last_seq 0", entry(32, "Q", 0), "last_seq: expected 1 to seq 3, found 0"),
    (
        "a gap without end",
        entry(16, "Q", (1 << 63) - 1),
        "journal entries 3 to 9223372036854775806 are missing of",
    ),
    ("version to come", entry(24, "I", 2), "version: expected at most 1, found 2"),
    ("level 1", entry(168, "H", 1), "level 1, last child: expected .* found None"),
    ("level 17", entry(168, "H", 17), "btree_level: expected at most 16, found 17"),
    (
        "a key",
        lambda image: image.write_entry(keys=(EXTENT,)),
        "journal entry 3, key 0, bucket: expected below 530, found 1040",
    ),
    ("half a key", entry(28, "I", 1), "journal bucket 4, byte 1024, keys, word 0: expected 2 words"),
    ("no uuid pointer", entry(40, "Q", 1 << 63 | 8 << 20), "uuid_bucket, pointers: expected at least 1"),
    (
        "7 root pointers",
        entry(104, "Q", 7 << 60),
        "btree_root, word 0, pointers: expected at most 6, found 7",
    ),
    ("a checksum", entry(40, "Q", 1 << 63 | 1 << 60 | 1 << 56), "uuid_bucket, word 0, csum: expected 0"),
    ("no prio chain", entry(176, "Q", 0), "prio set 0 of 1: expected a bucket of 7 to 529, found 0"),
    ("prios in the journal", entry(176, "Q", 4), "prio set 0 of 1: expected a bucket of 7 to 529, found 4"),
    (
        "prios off the device",
        entry(176, "Q", 530),
        "prio set 0 of 1: expected a bucket of 7 to 529, found 530",
    ),
    ("prios that are none", entry(176, "Q", 400), "prio set at .* bucket 400, prio set 0 of 1: expected 0x"),
]
for NAME, OTHER in (("uuid_bucket", "root"), ("root", "uuid_bucket")):
    SAID = "uuid_bucket" if NAME == "uuid_bucket" else "btree_root"
    SAME = pointer_of(NAME)
    ENTRY += [
        (f"{NAME} of no sectors", place(NAME, SAME, sectors=0), f"{SAID}, sectors: expected at least 1"),
        (f"{NAME} too long", place(NAME, SAME, sectors=NODE + 1), f"{SAID}, sectors: expected an end inside"),
        (f"{NAME} dirty", place(NAME, SAME, dirty=True), f"{SAID}, dirty: expected not dirty"),
        (f"{NAME} elsewhere", place(NAME, pointer_of(NAME, device=1)), f"{SAID}, device: expected below 1"),
        (
            f"{NAME} at 0",
            place(NAME, pointer_of(NAME, sector=0)),
            f"{SAID}, bucket: expected at least 3, found 0",
        ),
        (f"{NAME} off", place(NAME, pointer_of(NAME, sector=530 * 8)), f"{SAID}, bucket: expected below 530"),
        (
            f"{NAME} in the journal",
            place(NAME, pointer_of(NAME, sector=40)),
            "expected a bucket of its own, found .*used for journal",
        ),
        (f"{NAME} as {OTHER}", place(NAME, pointer_of(OTHER)), "expected a bucket of its own"),
        (
            f"{NAME} as prios",
            place(NAME, lambda image: Pointer(0, image.newest.prio_heads[0] * 8, 1)),
            "expected a bucket of its own, found .*used for prio",
        ),
        (
            f"{NAME} stale",
            place(NAME, moved(NAME, -1)),
            "expected a pointer with .*gen 1, found 0|bset at .*: expected 0x",
        ),
        (
            f"{NAME} far ahead",
            place(NAME, moved(NAME, 97)),
            "gens at most 96 apart, found 1 to 98|bset at .*: expected 0x",
        ),
        (
            f"{NAME} twice",
            place(NAME, SAME, pointers=(Pointer(0, 800, 1),) * 2),
            f"{SAID}, pointers: expected 1,",
        ),
    ]
ENTRY += [
    ("half a uuid table", place("uuid_bucket", pointer_of("uuid_bucket"), sectors=4), "32 slots, found 16"),
    (
        "a root that ends",
        place("root", pointer_of("root"), offset=100),
        "btree_root, position: expected 1048575:",
    ),
    ("a root of inode 3", place("root", pointer_of("root"), inode=3), "btree_root, position: .* found 3:"),
]

ROOT: list[Case] = [
    (
        "no node",
        lambda image: image.put(image.root_at, bytes(4096)),
        "node at sector 72, level 0, seq: expected not 0, found 0",
    ),
    (
        "torn node",
        lambda image: image.put(image.root_at + 24, b"\1\0\0\0\2"),
        "node at sector 72, level 0, byte 0: expected 0x",
    ),
    (
        "keys",
        lambda image: image.write_root(EXTENT),
        "extent at .* node at sector 72, level 0, byte .*, key 0, bucket: expected below 530, found 1040",
    ),
    (
        "keys in a later bset",
        in_turn(Image.write_root, lambda image: image.write_root(EXTENT, behind=512)),
        "extent at .* node at sector 72, level 0, byte .*, key 0, bucket: expected below 530, found 1040",
    ),
    (
        "an empty later bset",
        in_turn(Image.write_root, lambda image: image.write_root(behind=512)),
        "at least 1 in a later bset, found 0",
    ),
    (
        "a stray bset",
        in_turn(Image.write_root, lambda image: image.write_root(EXTENT, behind=1024)),
        "no bset behind a gap",
    ),
]

BUCKET = 400  # nobody has used it


def data(bucket: int, *, offset: int = 0, sectors: int = 8, gen: int = 0) -> Key:
    """A key for data in a bucket."""
    return Key(0, offset, sectors, False, (Pointer(0, bucket * NODE, gen),))


def in_journal(*keys: Key) -> Spoil:
    """The newest entry with these keys."""
    return lambda image: image.write_entry(keys=keys)


def in_leaf(*keys: Key) -> Spoil:
    """The root with these keys."""
    return lambda image: image.write_root(*keys)


CONTENTS: list[Case] = [
    *[
        (
            f"a key of {of} for data in {used_for}",
            spoil,
            f"bucket {bucket}: keys for data point to it, but it is used for {used_for.lower()}",
        )
        for bucket, gen, used_for in ((4, 0, "JOURNAL"), (7, 1, "PRIO"), (8, 1, "UUID"), (9, 1, "BTREE"))
        for of, spoil in (
            ("the journal", in_journal(data(bucket, gen=gen))),
            ("a leaf", in_leaf(data(bucket, gen=gen))),
        )
    ],
    (
        "a leaf with too much for a bucket",
        in_leaf(data(BUCKET), data(BUCKET, offset=20, sectors=1)),
        "bucket 400: keys for 9 sectors lie in its 8: some overlap",
    ),
    (
        "a journal with too much for a bucket",
        in_journal(data(BUCKET), data(BUCKET, offset=20, sectors=1)),
        "bucket 400: keys for 9 sectors lie in its 8: some overlap",
    ),
    (
        "a leaf and a journal with too much for a bucket",
        in_turn(
            lambda image: image.write_root(data(BUCKET)),
            lambda image: image.write_entry(keys=(data(BUCKET, offset=20, sectors=1),)),
        ),
        "bucket 400: keys for 9 sectors lie in its 8: some overlap",
    ),
    (
        "a leaf with more than can be counted",
        in_leaf(*(data(BUCKET, offset=20 * n) for n in range(3))),
        "bucket 400: keys for 24 sectors lie in its 8: some overlap",
    ),
    (
        "a journal with more than can be counted",
        in_journal(*(data(BUCKET, offset=20 * n) for n in range(10))),
        "bucket 400: keys for 32 sectors lie in its 8: some overlap",
    ),
    *[
        (
            f"a gen 97 {side} in {of}",
            spoil,
            f"bucket 400: expected gens at most 96 apart, found {found}",
        )
        for side, gen, found in (("ahead", 97, "0 to 97"), ("behind", 159, "159 to 0"))
        for of, spoil in (
            ("the journal", in_journal(data(BUCKET, gen=gen))),
            ("a leaf", in_leaf(data(BUCKET, gen=gen))),
        )
    ],
]

PRIOS: list[Case] = [
    ("wrong magic", lambda image: image.spoil_prios(8, "Q", 1), "prio set at .* expected 0x.*, found 0x0+1"),
    (
        "damaged",
        lambda image: image.put(image.newest.prio_heads[0] * BUCKET_BYTES + 999, b"x"),
        "prio set at ",
    ),
    (
        "a loop",
        lambda image: image.spoil_prios(32, "Q", image.newest.prio_heads[0]),
        "prio set 1 of 2: expected a chain without a loop, found bucket .* again",
    ),
    (
        "next is the superblock",
        lambda image: image.spoil_prios(32, "Q", 0),
        "prio set 1 of 2: expected a bucket of",
    ),
    (
        "next is far off",
        lambda image: image.spoil_prios(32, "Q", 1 << 40),
        "prio set 1 of 2: expected a bucket of",
    ),
    (
        "two writes",
        lambda image: image.spoil_prios(16, "Q", 9, index=1),
        "prio set 1 of 2, seq: expected 1, found 9",
    ),
]


def parameters(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("spoil", "says"), [pytest.param(*case[1:], id=case[0]) for case in cases])


@parameters(SUPERBLOCK + ENTRY + ROOT + CONTENTS)
async def test_a_wrong_field_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, spoil: Spoil, says: str
) -> None:
    image = await Image.used()
    spoil(image)
    assert re.search(says, text := await refusal([image.device()], tmp_path)), text


@parameters(PRIOS)
async def test_a_wrong_prio_chain_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, spoil: Spoil, says: str
) -> None:
    image = await Image.used(1400)
    spoil(image)
    assert re.search(says, text := await refusal([image.device()], tmp_path)), text


async def test_a_leaf_that_the_journal_says_was_replaced_is_not_passed_over(tmp_path: Path) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    key = Key(0, 5000, 8, False, (Pointer(0, leaves[0].pointers[0].sector, 1),))
    builder.finish(root, 1, [[key]])
    text = await refusal(builder.devices(), tmp_path)
    assert "expected a pointer with the bucket's gen 1, found 0" in text


async def test_what_a_leaf_holds_too_much_of_may_be_cut_by_the_journal(tmp_path: Path) -> None:
    image = await Image.used()
    image.write_root(data(BUCKET), data(BUCKET, offset=20))
    image.write_entry(keys=(data(BUCKET + 1, offset=20),))
    async with running(
        [image.device()], SetOptions(str(tmp_path), str(tmp_path), restart_grace_s=0)
    ) as opened:
        assert opened.verify() == []


async def test_the_image_that_is_spoilt_here_is_else_a_good_one(tmp_path: Path) -> None:
    for bucket_count in (530, 1400):
        image = await Image.used(bucket_count)
        async with running(
            [image.device()], SetOptions(str(tmp_path), str(tmp_path), restart_grace_s=0)
        ) as opened:
            assert opened.verify() == []


@pytest.mark.parametrize("where", [8, 16], ids=["checksum", "offset"])
async def test_a_superblock_damaged_in_both_places_is_refused(tmp_path: Path, where: int) -> None:
    image = await Image.used()
    for at in (SUPERBLOCK_AT, COPY_AT):
        image.put(at + where - 8, b"\xff")
    assert "superblock at" in await refusal([image.device()], tmp_path)


async def test_a_journal_without_a_whole_entry_is_refused(tmp_path: Path) -> None:
    image = await Image.used()
    for bucket in image.superblock.journal_buckets:
        image.put(bucket * BUCKET_BYTES + 50, b"\xff")
    assert "no journal entries found" in await refusal([image.device()], tmp_path)


async def test_an_entry_missing_among_those_needed_is_refused(tmp_path: Path) -> None:
    image = await Image.used(entries=9)  # the newest is the first of the next bucket
    image.write_entry(last_seq=2)
    image.put(image.superblock.journal_buckets[1] * BUCKET_BYTES + 512 * 4 + 50, b"\xff")
    text = await refusal([image.device()], tmp_path)
    assert "journal entries 5 to 8 are missing of 2 to 9" in text
    assert text.endswith("bcachectl repair --clear-journal-behind 4 memory")


async def test_an_entry_that_hides_newer_ones_is_refused(tmp_path: Path) -> None:
    image = await Image.used(entries=5)
    bucket = image.newest_at // BUCKET_BYTES
    assert bucket == image.superblock.journal_buckets[1]
    image.put(image.newest_at - 512 * 2 + 50, b"\xff")  # entry 3: what follows it is not found either
    text = await refusal([image.device()], tmp_path)
    assert "entry 2 is the newest that can be read, but entries up to 5 were written" in text
    assert text.endswith("bcachectl repair --clear-journal-behind 2 memory")


async def test_a_newest_entry_that_is_not_whole_is_as_if_never_written(tmp_path: Path) -> None:
    image = await Image.used(entries=5)
    image.put(image.newest_at + 50, b"\xff")
    async with running(
        [image.device()], SetOptions(str(tmp_path), str(tmp_path), restart_grace_s=0)
    ) as opened:
        assert opened.journal.seq == 4


@pytest.mark.parametrize("size_bytes", [512, 4096, 8192 - 512, 1 << 20, 530 * BUCKET_BYTES - 512])
async def test_a_truncated_image_is_refused(tmp_path: Path, size_bytes: int) -> None:
    image = await Image.used()
    text = await refusal([MemoryDevice.holding(image.raw[:size_bytes])], tmp_path)
    assert ("its end" if size_bytes < 8192 else "expected what a device of") in text


async def test_a_device_with_larger_blocks_than_it_was_made_with_is_refused(tmp_path: Path) -> None:
    image = await Image.used()
    device = MemoryDevice(len(image.raw), 4096)
    device.disk.contents[:] = image.raw
    assert "expected at least the device's logical block of 4096 bytes" in await refusal([device], tmp_path)


async def test_zeros_and_noise_are_refused(tmp_path: Path) -> None:
    assert "superblock at" in await refusal([MemoryDevice(4 << 20)], tmp_path)
    assert "superblock at" in await refusal([MemoryDevice.holding(Random(1).randbytes(1 << 20))], tmp_path)


async def test_a_fresh_device_without_room_behind_its_first_bucket_is_refused(tmp_path: Path) -> None:
    (device,) = await fresh_devices(600)
    raw = bytes(device.disk.contents[SUPERBLOCK_AT:COPY_AT])
    for first_bucket, says in (
        (597, "has 600 buckets, the first one 597, and at least"),
        (600, "an end below 600"),
    ):
        spoilt = MemoryDevice.holding(device.image())
        spoilt.disk.contents[SUPERBLOCK_AT:COPY_AT] = sealed(with_field(raw, 204, "H", first_bucket), 208)
        assert says in await refusal([spoilt], tmp_path)


# Sets of several


async def test_members_of_different_sets_are_refused(tmp_path: Path) -> None:
    ours = await used_devices(530, 530)
    (other,) = await fresh_devices(530)
    at = slice(SUPERBLOCK_AT, COPY_AT)
    other.disk.contents[at] = sealed(with_field(bytes(other.disk.contents[at]), 56, "16s", b"o" * 16), 208)
    assert "is of set" in await refusal([ours[0], other], tmp_path)


async def copies(*bucket_counts: int, entries: int = 3) -> list[MemoryDevice]:
    """A used set of several members, whose members can be given twice or not at all."""
    return [
        named(device.image(), device.path) for device in await used_devices(*bucket_counts, entries=entries)
    ]


def named(image: bytes | bytearray, path: str) -> MemoryDevice:
    device = MemoryDevice(len(image), path=path)
    device.disk.contents[:] = image
    return device


async def test_a_missing_member_is_refused(tmp_path: Path) -> None:
    first, second, third = await copies(530, 560, 530)
    assert "d1: its set has 3 members, but 1 were given" in await refusal([second], tmp_path)
    assert "d0: its set has 3 members, but 2 were given" in await refusal([first, third], tmp_path)


async def test_a_member_given_twice_is_refused(tmp_path: Path) -> None:
    first, _ = await copies(530, 530)
    text = await refusal([first, named(first.image(), "again")], tmp_path)
    assert "again and d0: both are member 0 of set" in text


async def test_a_surplus_device_is_refused(tmp_path: Path) -> None:
    first, second = await copies(530, 530)
    third = named(second.image(), "surplus")
    assert "surplus and d1: both are member 1" in await refusal([first, second, third], tmp_path)


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [(194, 16, "bucket_sectors is 16, but 8 on d0"), (192, 2, "block_sectors is 2, but 1 on d0")],
)
async def test_members_of_unequal_buckets_or_blocks_are_refused(
    tmp_path: Path, offset: int, value: int, says: str
) -> None:
    first, second = await copies(530, 1200)
    raw = with_field(bytes(second.disk.contents[SUPERBLOCK_AT:COPY_AT]), offset, "H", value)
    count = int.from_bytes(raw[206:208], "little")
    raw = with_field(raw, 184, "Q", 600)
    second.disk.contents[SUPERBLOCK_AT:COPY_AT] = sealed(raw, 208 + 8 * count)
    assert says in await refusal([first, second], tmp_path)


async def test_a_member_made_anew_is_refused_while_the_others_are_in_use(tmp_path: Path) -> None:
    first, _ = await copies(530, 530)
    _, fresh = await fresh_devices(530, 530)
    assert (
        "d1: is freshly made, or an older copy from before the first run, but the other members"
        in await refusal([first, fresh], tmp_path)
    )


async def test_members_that_hold_different_entries_of_one_seq_are_refused(tmp_path: Path) -> None:
    devices = await copies(530, 530)
    image = Image(bytearray(devices[1].image()), *await newest_of(devices))
    image.write_entry(prio_heads=(9,) * 8)
    text = await refusal([devices[0], named(image.raw, "d1")], tmp_path)
    assert "entry 3 differs from the entry 3 on another member" in text


async def newest_of(devices: Sequence[MemoryDevice]) -> tuple[Superblock, JournalEntry, int]:
    """The second member's superblock, the newest entry, and where it stands there."""
    found = await read_set(devices)
    assert found.contents is not None
    ring, superblock = found.contents.journal.rings[1], found.members[1].superblock
    at = superblock.journal_buckets[ring.index] * BUCKET_BYTES + ring.behind_byte - 512
    return superblock, found.contents.newest, at


async def test_a_set_of_several_without_the_feature_that_keeps_kernels_away_is_refused(
    tmp_path: Path,
) -> None:
    devices = await copies(530, 530)
    for device in devices:
        raw = with_field(bytes(device.disk.contents[SUPERBLOCK_AT:COPY_AT]), 16, "Q", 3)
        device.disk.contents[SUPERBLOCK_AT:COPY_AT] = sealed(
            raw, 208 + 8 * int.from_bytes(raw[206:208], "little")
        )
    assert "d0: feature_incompat is 0x0, expected 0x4000000000000000" in await refusal(devices, tmp_path)
