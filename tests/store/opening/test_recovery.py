# SPDX-License-Identifier: GPL-2.0-only
"""The first run in the kernel's order of writes, and the opening of what was in use."""

from dataclasses import replace

import pytest

from bcached.errors import DeviceError
from bcached.format.prio_set import PrioSet
from bcached.format.superblock import Superblock
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.reserves import Reserve
from bcached.store.opening.recovery import first_run, recover
from bcached.store.reading.set_reader import read_set
from bcached.store.superblock_slot import read_superblock
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.used_set import (
    BUCKET_BYTES,
    COPY_AT,
    SUPERBLOCK_AT,
    Image,
    fresh_devices,
    make_buckets,
    open_set,
    used_devices,
)


def told(recorder: RecordingDevice) -> list[str]:
    """What was written where, in order, by name."""
    places = {SUPERBLOCK_AT // BUCKET_BYTES: "superblock", COPY_AT // BUCKET_BYTES: "copy"}
    places |= dict.fromkeys(range(3, 7), "journal")
    return [
        ("durable " if entry.durable else "")
        + (places.get(entry.offset // BUCKET_BYTES, "bucket") if entry.kind != "flush" else "flush")
        for entry in recorder.log.entries
    ]


async def test_the_first_run_writes_in_the_kernel_s_order() -> None:
    (device,) = await fresh_devices(530)
    recorder = await RecordingDevice.over(device)
    opened = await open_set([recorder])
    assert told(recorder) == [
        *["journal", "flush"],  # wiped
        *["bucket", "bucket", "durable bucket"],  # prios, uuids, root
        *["flush", "durable journal"],
        *["copy", "flush", "superblock", "flush"],
    ]
    journal = opened.journal
    member = opened.members[0]
    prios, uuids, root = (entry.offset for entry in recorder.log.entries[2:5])
    assert prios == journal.locations.prio_heads[0] * BUCKET_BYTES
    assert uuids == journal.locations.uuid_bucket.pointers[0].sector * 512
    assert root == journal.locations.root.pointers[0].sector * 512
    assert recorder.log.entries[6].offset == member.superblock.journal_buckets[1] * BUCKET_BYTES


async def test_the_first_run_takes_the_first_buckets_with_gen_1_and_writes_those_gens() -> None:
    (device,) = await fresh_devices(530)
    opened = await open_set([device])
    head = opened.journal.locations.prio_heads[0]
    assert head == 7, "the first one behind the journal"
    prios = PrioSet.parse(
        bytes(device.disk.contents[head * 4096 :][:4096]), opened.members[0].superblock.set_magic, ""
    )
    assert prios.gens[:530].tolist() == [0] * 7 + [1] * 8 + [0] * 515
    for key in (opened.journal.locations.uuid_bucket, opened.journal.locations.root):
        assert key.pointers[0].gen == 1


async def test_after_the_first_run_the_superblock_says_what_the_kernel_s_would() -> None:
    (device,) = await fresh_devices(530)
    made = await read_superblock(device)
    await open_set([device])
    after = await read_superblock(device)
    expected = replace(made, version=3, synchronous=True, journal_buckets=(3, 4, 5, 6), seq=1)
    assert replace(after, last_mount=0) == expected
    assert after.last_mount > 1_700_000_000


async def test_a_set_of_several_stays_at_the_version_that_keeps_kernels_away() -> None:
    devices = await used_devices(530, 530)
    superblocks = [await read_superblock(device) for device in devices]
    assert [(one.version, one.synchronous) for one in superblocks] == [(5, True)] * 2


async def test_without_synchronous_the_next_opening_finds_the_set_fresh() -> None:
    (device,) = await fresh_devices(530)
    before = bytes(device.disk.contents[: 7 * BUCKET_BYTES])
    opened = await first_run(await read_set([device]), make_buckets, lambda: 0.0, synchronous=False)
    assert bytes(device.disk.contents[: 7 * BUCKET_BYTES]) == before
    assert opened.journal.seq == 0
    assert (await read_set([device])).contents is None


async def test_a_first_run_begun_again_is_trusted_by_nobody_before_its_journal_is_wiped() -> None:
    devices = await used_devices(530, 530, entries=1)
    old = await read_superblock(devices[1])
    devices[1].disk.contents[SUPERBLOCK_AT:COPY_AT] = replace(old, synchronous=False).pack()
    recorders = [await RecordingDevice.over(device) for device in devices]
    await open_set(recorders)
    log = recorders[0].log
    wipe = next(entry for entry in log.entries if entry.offset == 3 * BUCKET_BYTES)
    raw = log.durable_bytes(SUPERBLOCK_AT, 4096, wipe.issued)
    assert raw is not None
    taken_back = Superblock.parse(raw, device_bytes=1 << 30, logical_block_bytes=512)
    assert not taken_back.synchronous
    assert (await read_set(devices)).contents is not None


async def test_opening_writes_nothing_and_fills_the_tables() -> None:
    devices = await used_devices(530, 560)
    recorders = [await RecordingDevice.over(device) for device in devices]
    opened = await open_set(recorders)
    assert [[e.kind for e in recorder.log.entries] for recorder in recorders] == [["flush"]] * 2
    journal = opened.journal
    for member in opened.members:
        table = member.buckets.table
        assert set(table.in_state(State.JOURNAL)) == set(member.superblock.journal_buckets)
        assert list(table.in_state(State.PRIO)) == [journal.locations.prio_heads[member.device]]
        assert all(table.prios[bucket] == METADATA_PRIO for bucket in table.in_state(State.PRIO))
        assert all(table.prios[bucket] == INITIAL_PRIO for bucket in table.in_state(State.FREE))
        for reserve in (Reserve.PRIO, Reserve.BTREE):
            assert member.buckets.reserves.room_in(reserve) == 0
        assert member.prio_seq == 1
    assert journal.seq == 3


async def test_the_journal_goes_on_in_a_new_bucket_with_the_next_seq() -> None:
    (device,) = await used_devices(530, entries=3)
    recorder = await RecordingDevice.over(device)
    opened = await open_set([recorder])
    assert await opened.journal.commit() == 4
    assert recorder.log.entries[-1].offset == 5 * BUCKET_BYTES


async def test_gens_follow_pointers_that_are_ahead_and_keep_the_older_as_the_oldest() -> None:
    image = await Image.used()
    key = image.newest.root
    pointer = key.pointers[0]
    bucket = pointer.sector // 8
    image.spoil_prios(40 + 3 * bucket + 2, "B", 161)  # the pointer has 1: ahead by 96, round the corner
    image.spoil_prios(40 + 3 * bucket, "H", METADATA_PRIO)
    image.spoil_prios(40 + 3 * 300, "H", METADATA_PRIO)
    image.spoil_prios(40 + 3 * 301, "H", INITIAL_PRIO + 1)
    (member,) = (await open_set([image.device()])).members
    table = member.buckets.table
    assert (table.gens[bucket], table.gens_on_disk[bucket], table.last_gc[bucket]) == (1, 161, 161)
    assert table.distance_disk == table.distance_index == 96
    assert table.prios[bucket] == METADATA_PRIO
    assert table.prios[300] == INITIAL_PRIO, "it was metadata once"
    assert table.prios[301] == INITIAL_PRIO, "no data has more"


async def test_a_superblock_read_from_its_copy_is_mended_when_the_set_is_known_to_be_sound() -> None:
    image = await Image.used()
    image.put(SUPERBLOCK_AT + 200, b"\xff")
    device = image.device()
    recorder = await RecordingDevice.over(device)
    found = await read_set([recorder])
    assert [entry.kind for entry in recorder.log.entries] == ["flush"]
    await recover(found, make_buckets, lambda: 0.0)
    assert told(recorder) == ["flush", "superblock", "flush"]
    assert device.image()[SUPERBLOCK_AT:COPY_AT] == device.image()[COPY_AT : COPY_AT + 4096]


@pytest.mark.parametrize("members", [1, 2])
async def test_a_first_run_that_fails_at_any_write_or_flush_can_be_done_again(members: int) -> None:
    counts = [530] * members
    for verb in ("write", "flush"):
        for count in range(1, 20):
            devices = await fresh_devices(*counts)
            failing = FailingDevice(devices[-1], Fault(verb, count, lasting=True))
            try:
                await open_set([*devices[:-1], failing])
            except DeviceError:
                opened = await open_set([MemoryDevice.holding(device.image()) for device in devices])
                assert opened.journal.seq == 1
            else:
                break
        else:
            raise AssertionError("the first run has fewer steps")
        assert count > 3
