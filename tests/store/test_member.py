# SPDX-License-Identifier: GPL-2.0-only
"""A member's own writes: prios with a seq that rises, and superblocks that count as theirs once durable."""

import pytest

from bcached.errors import DeviceError
from bcached.store.opening.recovery import FILLED_FIRST
from bcached.store.superblock_slot import read_superblock
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.samples.read_back import read_chain
from instruments.samples.used_set import Image, open_set, used_devices


async def test_prios_are_written_where_the_cache_set_buckets_aside_with_the_next_seq() -> None:
    devices = await used_devices(530)
    (member,) = (await open_set(devices)).members
    for seq in (2, 3):
        head = member.buckets.take_prio_chain()[0]
        gens, through = member.buckets.snapshot_gens()
        await member.write_prios(gens)
        for _ in member.buckets.gens_became_durable(gens, through):
            pass
        chain = await read_chain(devices[0], member.buckets.geometry, head, member.superblock.set_magic)
        assert (chain.seq, chain.gens.tobytes()) == (seq, bytes(gens))
        member.buckets.initial_fill(FILLED_FIRST)


async def test_a_change_of_the_superblock_raises_its_seq_and_is_on_the_device() -> None:
    devices = await used_devices(530)
    (member,) = (await open_set(devices)).members
    before = member.superblock
    await member.change_superblock(discard=True)
    assert member.superblock == await read_superblock(devices[0])
    assert (member.superblock.discard, member.superblock.seq) == (True, before.seq + 1)


async def test_seqs_that_are_at_their_end_begin_anew() -> None:
    image = await Image.used()
    image.spoil_prios(16, "Q", (1 << 64) - 1)
    image.spoil_superblock(112, "Q", (1 << 64) - 1)
    device = image.device()
    (member,) = (await open_set([device])).members
    await member.change_superblock(discard=True)
    assert (await read_superblock(device)).seq == 0
    head = member.buckets.take_prio_chain()[0]
    gens, _ = member.buckets.snapshot_gens()
    await member.write_prios(gens)
    chain = await read_chain(device, member.buckets.geometry, head, member.superblock.set_magic)
    assert chain.seq == 0


async def test_a_change_that_fails_is_not_taken_for_made() -> None:
    (device,) = await used_devices(530)
    (member,) = (await open_set([FailingDevice(device, Fault("write", 2))])).members
    before = member.superblock
    with pytest.raises(DeviceError):
        await member.change_superblock(discard=True)
    assert member.superblock == before == await read_superblock(device)
