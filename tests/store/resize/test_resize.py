# SPDX-License-Identifier: GPL-2.0-only
"""Another size, whatever is where: the data is the same, and a cut leaves the old set or the new one."""

from collections.abc import Sequence
from random import Random

import pytest

from bcached.device.block_device import BlockDevice
from bcached.errors import GeometryRefused, SetRefused
from bcached.keys import Key
from bcached.store.check.checker import CheckedSet, check_set, read_metadata, read_tree
from bcached.store.resize import resize as resizing
from bcached.store.resize.plan import ResizePlan, plan_resize
from bcached.store.resize.resize import empty_first, resize
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.image_builder import ImageBuilder
from instruments.samples.kernel_images import kernel_image
from instruments.samples.live_data import dirty, live_data
from instruments.samples.used_set import fresh_devices, open_set

BEFORE, BEHIND, LARGER = 640, 600, 1400  # buckets; where the builder goes on with `behind_the_end`
SMALL = {"bucket_count": BEFORE, "bucket_sectors": 8, "block_sectors": 1}


async def planned(devices: Sequence[BlockDevice], count: int, member: int = 0) -> ResizePlan:
    checked = await check_set(devices)
    assert checked.findings.sound, checked.findings.listed
    return plan_resize(checked, member, count)


async def resized(devices: Sequence[BlockDevice], count: int, member: int = 0) -> CheckedSet:
    plan = await planned(devices, count, member)
    if plan.emptied is not None:
        await empty_first(plan)
        plan = await planned(devices, count, member)
    await resize(plan)
    checked = await check_set(devices)
    assert checked.findings.sound, checked.findings.listed
    assert checked.members[member].superblock.bucket_count == count
    return checked


def behind_the_end(**fields: int) -> ImageBuilder:
    """A set whose metadata and data is all behind bucket 600, with some clean data in front of it."""
    builder = ImageBuilder(**SMALL, **fields)
    front = [builder.extent(1, 100 * n, 8, dirty=n % 2 == 0) for n in range(4)]
    builder._next_bucket = [BEHIND] * len(builder.images)
    behind = [builder.extent(0, 1000 + 16 * n, 8) for n in range(20)]
    leaves = [builder.node(behind, position=(0, 4000)), builder.node(front)]
    builder.finish(builder.node(leaves), 1, [[builder.extent(0, 3000, 8)], [builder.extent(0, 3001, 3)]])
    for number, image in enumerate(builder.images):
        superblock = builder.geometry
        for bucket in range(superblock.journal_buckets.stop, BEFORE):
            at = superblock.byte_of(bucket)
            if not any(image[at : at + 4096]):
                image[at : at + 4096] = Random(bucket + number).randbytes(4096)
    return builder


async def pointers(devices: Sequence[BlockDevice]) -> set[int]:
    """The buckets that any key on the device names, stale ones and those of the journal included."""
    checked = await read_metadata(devices)
    keys: list[Key] = []
    async for node in read_tree(checked):
        keys += [node.key, *(key for placed in node.bsets for key in placed.bset.keys)]
    assert checked.journal is not None
    keys += [key for entry in checked.journal.entries for key in entry.keys]
    return {pointer.sector // 8 for key in keys for pointer in key.pointers}


@pytest.mark.parametrize("name", ["flash", "full-lru"])
async def test_a_kernels_set_grows_and_shrinks_again(name: str) -> None:
    device = kernel_image(name).device()
    size, before = device.size_bytes, await live_data([device])
    count = (await check_set([device])).members[0].superblock.bucket_count
    larger = MemoryDevice(size * 3)
    larger.disk.contents[:size] = device.image()
    checked = await resized([larger], count * 3)
    assert await live_data([larger], checked) == before
    checked = await resized([larger], count)
    assert await live_data([larger], checked) == before
    cut = MemoryDevice.holding(larger.image()[:size])
    await open_set([cut])
    assert await live_data([cut]) == before


async def test_what_is_behind_the_end_is_moved_or_dropped() -> None:
    (device,) = behind_the_end().devices()
    before = await live_data([device])
    plan = await planned([device], BEHIND)
    assert (plan.dropped_sectors, plan.moved_buckets) == (20 * 8 + 8, 5)
    checked = await resized([device], BEHIND)
    after = await live_data([device], checked)
    assert after == {place: raw for place, raw in before.items() if place[0] == 1}
    assert dirty(after) == dirty(before) != {}
    assert max(await pointers([device])) < BEHIND
    smaller = MemoryDevice.holding(device.image()[: BEHIND * 4096])
    assert await live_data([smaller]) == after
    await open_set([smaller])


async def test_a_shrunk_set_grows_again_without_what_was_there() -> None:
    (device,) = behind_the_end().devices()
    await resized([device], BEHIND)
    after = await live_data([device])
    checked = await resized([device], BEFORE)
    assert await live_data([device], checked) == after
    assert not checked.censuses[0].gens[BEHIND:].any()


@pytest.mark.parametrize(("count", "seed"), [(BEHIND, 1), (BEHIND, 2), (LARGER, 3)])
async def test_a_cut_at_any_write_leaves_a_set_that_can_be_resized(count: int, seed: int) -> None:
    (device,) = behind_the_end().devices()
    larger = MemoryDevice(max(BEFORE, count) * 4096)
    larger.disk.contents[: device.size_bytes] = device.image()
    before = await live_data([device])
    recorded = await RecordingDevice.over(larger)
    final = await live_data([recorded], await resized([recorded], count))
    log, seen = recorded.log, set()
    for position in range(log.position + 1):
        copy = MemoryDevice.holding(log.image_after_cut(Random(seed * 1000 + position), position))
        checked = await check_set([copy])
        assert checked.findings.sound, (position, checked.findings.listed)
        found = await live_data([copy], checked)
        size = checked.members[0].superblock.bucket_count
        assert found in (before, final)
        assert found == final or size == BEFORE
        seen.add((size, found == final))
        if position % 3 == 0:
            assert await live_data([copy], await resized([copy], count)) == final
    assert {size for size, _ in seen} == {BEFORE, count}


async def test_a_superblock_that_comes_first_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = behind_the_end().devices()
    plan, rewrite = await planned([device], BEHIND), resizing._rewrite

    async def too_early(plan: ResizePlan, progress: resizing.Progress) -> None:
        await resizing._write_superblock(plan.found, BEHIND)
        await rewrite(plan, progress)

    recorded = await RecordingDevice.over(device)
    monkeypatch.setattr(resizing, "_rewrite", too_early)
    await resize(plan_resize(await check_set([recorded]), 0, plan.after.bucket_count))
    broken = 0
    for position in range(recorded.log.position + 1):
        copy = MemoryDevice.holding(recorded.log.image_after_cut(Random(position), position))
        broken += not (await check_set([copy])).findings.sound
    assert broken


def full_of_clean_data(dirty_from: int = BEFORE) -> ImageBuilder:
    """A set of which every bucket but a few holds data: clean up to one, dirty from there on."""
    builder = ImageBuilder(**SMALL)
    first = builder.bucket() + 20
    builder._next_bucket = [first]
    keys = [builder.extent(0, 16 * n, 8, dirty=first + n >= dirty_from) for n in range(BEFORE - first)]
    builder._next_bucket = [first - 20]
    parts = [keys[begin : begin + 120] for begin in range(0, len(keys), 120)]
    leaves = [builder.node(part, position=(0, part[-1].end)) for part in parts[:-1]]
    leaves.append(builder.node(parts[-1]))
    spare = [builder.extent(1, 8 * n, 8, dirty=True) for n in range(8)]
    builder.finish(builder.node(leaves), 1, [spare])
    return builder


async def test_clean_data_makes_room_for_metadata() -> None:
    (device,) = full_of_clean_data().devices()
    before = await live_data([device])
    plan = await planned([device], BEHIND)
    assert plan.emptied is not None
    assert plan.emptied_sectors == 8 * len(plan.emptied)
    checked = await resized([device], BEHIND)
    after = await live_data([device], checked)
    assert after.items() <= before.items()
    assert dirty(after) == dirty(before)
    assert len(before) - len(after) == 8 * (BEFORE - BEHIND) + plan.emptied_sectors


async def test_a_cut_while_making_room_loses_nothing_more() -> None:
    (device,) = full_of_clean_data().devices()
    before = await live_data([device])
    recorded = await RecordingDevice.over(device)
    plan = await planned([recorded], BEHIND)
    await empty_first(plan)
    emptied = await live_data([recorded])
    for position in range(recorded.log.position + 1):
        copy = MemoryDevice.holding(recorded.log.image_after_cut(Random(position), position))
        checked = await check_set([copy])
        assert checked.findings.sound
        assert await live_data([copy], checked) in (before, emptied)


async def test_dirty_data_behind_the_end_is_refused_with_its_counts() -> None:
    (device,) = full_of_clean_data(dirty_from=630).devices()
    image = device.image()
    with pytest.raises(SetRefused, match=r"80 sectors \(40k\) of dirty data in 10 buckets.*2560k or more"):
        await planned([device], 620)
    assert device.image() == image


async def test_without_clean_data_to_drop_there_must_be_room() -> None:
    (device,) = full_of_clean_data(dirty_from=0).devices()
    with pytest.raises(SetRefused, match=r"dirty data"):
        await planned([device], 639)


@pytest.mark.parametrize("count", [0, 512])
async def test_too_few_buckets_are_refused(count: int) -> None:
    (device,) = behind_the_end().devices()
    with pytest.raises(GeometryRefused, match="buckets"):
        await planned([device], count)


async def test_a_member_of_several_is_resized_and_all_journals_go_on() -> None:
    builder = behind_the_end(members=2)
    devices = builder.devices()
    before = await live_data(devices)
    await resized(devices, BEHIND, member=1)
    assert await live_data(devices) == before
    checked = await resized(devices, BEHIND, member=0)
    assert [member.superblock.bucket_count for member in checked.members] == [BEHIND, BEHIND]
    assert dirty(await live_data(devices, checked)) == dirty(before)
    await open_set(devices)


async def test_a_fresh_set_only_gets_another_superblock() -> None:
    (device,) = await fresh_devices(700)
    checked = await resized([device], 530)
    assert checked.is_fresh
    await open_set([MemoryDevice.holding(device.image()[: 530 * 4096])])


async def test_the_size_it_has_changes_nothing() -> None:
    (device,) = behind_the_end().devices()
    image = device.image()
    await resized([device], BEFORE)
    assert device.image() == image
