# SPDX-License-Identifier: GPL-2.0-only
"""A 64 MiB image is allocated and dropped many times over: nothing is handed out before its gen is durable,
gens stay in bounds, Verify finds nothing. BCACHED_TURNOVER=100 says how many times, -s shows what it took.

A hundred times make a log of some 2.5 GB.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from bcached.device.block_device import BlockDevice
from bcached.device.file_device import FileDevice
from bcached.device.image_file import create_image
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.store.make.layout import lay_out, plan_set
from instruments.devices.latent_device import LatentDevice
from instruments.samples.living_set import fresh_members, set_options
from instruments.stories.turnover import Figures, Witness, turn_over
from instruments.time.virtual_time import in_virtual_time

TIMES = int(os.environ.get("BCACHED_TURNOVER", "0"))
BUCKET_BYTES = 64 << 10
IMAGE_BYTES = 64 << 20
every_policy = pytest.mark.parametrize("policy", list(Replacement), ids=lambda policy: policy.name.lower())
as_long_as_it_takes = pytest.mark.timeout(0 if TIMES else 120)


def told(cache_set: CacheSet, what: str, times: float, figures: Sequence[Figures]) -> str:
    """What a turnover took, in a line."""
    now = cache_set.statistics()
    return (
        f"{what}: {times:g} times, {sum(figure.allocations for figure in figures)} allocations, "
        f"{sum(member.prio_writes for member in now.members)} prio writes, "
        f"{sum(now.gc_runs.values())} collections {now.gc_runs}, "
        f"{sum(member.discards for member in now.members)} discards, "
        f"gen distance at most {max(figure.gen_distance for figure in figures)}, "
        f"{sum(figure.waits for figure in figures)} waits"
    )


async def switch_all_the_time(cache_set: CacheSet, random: Random) -> None:
    """Change policy and discards, collect garbage, write prios, whatever else goes on."""
    while True:
        await asyncio.sleep(random.random() * 0.02)
        await cache_set.maintenance.set_replacement(random.choice(list(Replacement)))
        await cache_set.maintenance.set_discard(random.random() < 0.7)
        if random.random() < 0.1:
            await cache_set.maintenance.collect_garbage()
            await cache_set.maintenance.write_priorities()


async def witnessed(
    folder: Path, counts: Sequence[int], policy: Replacement, *, bucket_bytes: int, times: float, switch: bool
) -> Figures:
    """A turnover on recorded devices, checked by their logs."""
    random = Random(f"{policy} {counts} {switch}")
    begun = time.monotonic()
    members = await fresh_members(counts, bucket_bytes, policy, discard=True)
    witnesses = [await Witness.over(LatentDevice(device, random)) for device in members]
    devices = [witness.device for witness in witnesses]
    async with running(devices, set_options(folder, verify=False)) as cache_set:
        for witness, member in zip(witnesses, cache_set.members, strict=True):
            witness.observe(member)
        async with asyncio.TaskGroup() as group:
            switching = group.create_task(switch_all_the_time(cache_set, random)) if switch else None
            sectors = int(sum(counts) * bucket_bytes // 512 * times)
            figures = await turn_over(cache_set, sectors, 1)
            if switching is not None:
                switching.cancel()
        assert cache_set.verify() == []
        line = told(cache_set, policy.name.lower() + ", switched" * switch, times, [figures])
        handovers = [len(witness.handovers) for witness in witnesses]
    turned_s = time.monotonic() - begun
    chains = [witness.check(member) for witness, member in zip(witnesses, cache_set.members, strict=True)]
    assert min(chains) > 20
    print(
        f"{line}; {handovers} handovers checked against {chains} prio chains, "
        f"{turned_s:.1f} s and {time.monotonic() - begun - turned_s:.1f} s for the check"
    )
    assert min(handovers) > 0.1 * times * min(counts), "hardly anything went through free_inc"
    assert figures.gen_distance <= GEN_DISTANCE_MAX
    return figures


@every_policy
@as_long_as_it_takes
@in_virtual_time
async def test_no_bucket_is_handed_out_before_its_gen_is_durable(tmp_path: Path, policy: Replacement) -> None:
    await witnessed(tmp_path, [1024], policy, bucket_bytes=BUCKET_BYTES, times=TIMES or 1, switch=False)


@as_long_as_it_takes
@in_virtual_time
async def test_nor_while_policies_and_discards_are_switched(tmp_path: Path) -> None:
    await witnessed(
        tmp_path, [1024], Replacement.LRU, bucket_bytes=BUCKET_BYTES, times=TIMES or 1, switch=True
    )


@as_long_as_it_takes
@in_virtual_time
async def test_nor_in_a_set_of_two_with_chains_of_two_buckets(tmp_path: Path) -> None:
    await witnessed(
        tmp_path, [2048, 1500], Replacement.FIFO, bucket_bytes=4 << 10, times=TIMES or 0.7, switch=True
    )


async def image(folder: Path, policy: Replacement) -> FileDevice:
    """An image file, freshly laid out and open."""
    path = str(folder / "cache.img")
    create_image(path, IMAGE_BYTES)
    device = await FileDevice.open(path)
    await lay_out(plan_set([device], bucket_bytes=BUCKET_BYTES, replacement=policy, discard=True), [device])
    return device


async def turn_over_a_file(folder: Path, policy: Replacement, times: float) -> str:
    """A turnover of a real file in real time, the policy being switched in its middle; its figures."""
    devices: list[BlockDevice] = [await image(folder, policy)]
    options = set_options(folder, verify=False, gc_slice_s=0.001)
    begun = time.monotonic()
    async with running(devices, options) as cache_set:
        half = int(IMAGE_BYTES // 512 * times / 2)
        first = await turn_over(cache_set, half, 1)
        assert cache_set.verify() == []
        other = Replacement((policy + 1) % len(Replacement))
        await cache_set.maintenance.set_replacement(other)
        await cache_set.maintenance.set_discard(False)
        turning = asyncio.ensure_future(turn_over(cache_set, half // 2, 2))
        await asyncio.sleep(0.05)
        await cache_set.maintenance.set_replacement(policy)
        await cache_set.maintenance.set_discard(True)
        await turning
        last = await turn_over(cache_set, half // 2, 3)
        assert cache_set.verify() == []
        elapsed_s = time.monotonic() - begun
        figures = [first, turning.result(), last]
        line = told(cache_set, f"image, {policy.name.lower()}", times, figures)
    assert max(figure.gen_distance for figure in figures) <= GEN_DISTANCE_MAX
    async with running([await FileDevice.open(str(folder / "cache.img"))], options) as cache_set:
        assert cache_set.verify() == []
    return f"{line}; {elapsed_s:.1f} s"


@every_policy
@as_long_as_it_takes
async def test_a_real_image_is_turned_over(tmp_path: Path, policy: Replacement) -> None:
    print(await turn_over_a_file(tmp_path, policy, TIMES or 0.5))


@in_virtual_time
async def test_the_witness_sees_a_bucket_that_goes_too_early(tmp_path: Path) -> None:
    """The check can fail: here free_inc is taken as ready before anything is durable."""
    (device,) = await fresh_members([1024], BUCKET_BYTES)
    witness = await Witness.over(device)
    async with running([witness.device], set_options(tmp_path, verify=False)) as cache_set:
        (member,) = cache_set.members
        witness.observe(member)
        buckets = member.buckets
        while not buckets.free_inc.awaiting_prios:  # invalidated, and the prio write has not ended
            await asyncio.sleep(0)
        bucket = buckets.free_inc.buckets[0]
        buckets.free_inc.need_no_prios()
        buckets.push([*buckets.unused.buckets, bucket])
    with pytest.raises(AssertionError, match="the durable gen is"):
        witness.check(member)
