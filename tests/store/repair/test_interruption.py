# SPDX-License-Identifier: GPL-2.0-only
"""A repair interrupted at any write, without an undo file: repeated, it ends as if it had not been."""

from contextlib import suppress

import pytest

from bcached.device.block_device import BytesLike
from bcached.errors import DeviceError
from bcached.keys import Key
from bcached.store.check.checker import check_set
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.remains.doubts import Confidence
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice
from instruments.samples.image_builder import ImageBuilder, two_levels

REBUILDING = {StepOption.REBUILD_PRIOS, StepOption.REBUILD_VOLUMES, StepOption.DROP_DAMAGED}
Found = set[tuple[int, int, bool, int]]  # offset, sectors, dirty, and the first sector on the device


class Interrupted(PassingDevice):
    """A device that does so many writes, half of the next one, and then none."""

    def __init__(self, inner: MemoryDevice, writes: int) -> None:
        super().__init__(inner)
        self.left = writes

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        self.left -= 1
        if self.left == -1 and len(data) > 512:
            await self.inner.write(offset, bytes(data)[: len(data) // 1024 * 512])
        if self.left < 0:
            raise DeviceError(self.path, "interrupted")
        await self.inner.write(offset, data, durable=durable)


def damaged() -> list[ImageBuilder]:
    """Sets with a leaf, prios, the table, or the root gone."""
    builders = []
    for what in range(4):
        builder = ImageBuilder()
        root, leaves = two_levels(builder)
        builder.finish(root, 1, [[builder.extent(0, 9000 + 8 * n, 8, dirty=True)] for n in range(3)])
        places = (
            builder.byte_of(leaves[0]),
            builder.geometry.byte_of(builder.prio_buckets[0][0]),
            builder.byte_of(builder.uuid_key),
            builder.byte_of(root),
        )
        builder.write(places[what], b"\xff" * 4096)
        builders.append(builder)
    return builders


def wishes(most: Confidence) -> Wishes:
    return Wishes(REBUILDING, most=most, accepts_loss=True)


async def found_on(device: MemoryDevice) -> Found:
    """The live keys of a sound set."""
    checked = await check_set([device])
    assert checked.findings.sound
    assert checked.tree is not None
    keys: list[Key] = [key for rows in checked.tree.rows.chunks() for key in rows]
    return {
        (key.offset, key.sectors, key.dirty, key.pointers[0].sector)
        for key in keys
        if not checked.staleness(key.pointers[0])
    }


@pytest.mark.parametrize("most", [Confidence.SURE, Confidence.NEWEST])
@pytest.mark.parametrize("number", range(4), ids=["leaf", "prios", "table", "root"])
async def test_repeated_it_ends_the_same(number: int, most: Confidence) -> None:
    image = bytes(damaged()[number].images[0])
    whole = MemoryDevice.holding(image)
    repair = await plan_repair([whole], wishes(most))
    await repair.write()
    expected = await found_on(whole)
    writes = whole.writes
    assert writes > 4
    for count in range(writes):
        device = MemoryDevice.holding(image)
        interrupted = Interrupted(device, count)
        with suppress(DeviceError):
            await (await plan_repair([interrupted], wishes(most))).write()
        again = await plan_repair([device], wishes(most))
        assert not again.obstacle
        if again.is_needed:
            await again.write()
        assert await found_on(device) == expected, count


async def test_an_entry_with_a_seq_that_none_can_follow_is_given_up() -> None:
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(0, 9000, 8, dirty=True)]])
    byte = builder.entries[1][1] + builder.geometry.bucket_bytes
    builder.write_entry(builder.entry((1 << 64) - 1, (1 << 64) - 1), byte)
    (device,) = builder.devices()
    repair = await plan_repair([device], wishes(Confidence.NEWEST))
    assert not repair.obstacle
    await repair.write()
    checked = await check_set([device])
    assert checked.journal is not None
    assert (checked.findings.sound, checked.journal.newest.seq) == (True, 2)
