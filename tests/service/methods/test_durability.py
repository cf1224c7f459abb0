# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import contextlib
from pathlib import Path

import pytest

from bcached.service.methods.durability import Durability
from instruments.clients.served_set import served
from instruments.clients.talker import Talker, call
from instruments.devices.memory_device import MemoryDevice


async def test_nobody_is_told_that_an_entry_is_durable_when_the_first_who_waits_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_flush, real = asyncio.Event(), MemoryDevice.flush

    async def slow(device: MemoryDevice) -> None:
        await may_flush.wait()
        await real(device)

    async with served(tmp_path) as it, Talker(it.path) as talker:
        # A bucket is open from here on.
        assert "parameters" in await talker.ask(call("Allocate", {"inode": 0, "offset": 0, "sectors": 8}))
        monkeypatch.setattr(MemoryDevice, "flush", slow)
        index = it.cache_set.index
        durability = Durability(index)
        holder = next(iter(it.cache_set.allocations.holders))
        key = it.cache_set.allocations.carve(holder, 0, 8, 8, 1)
        assert key is not None
        seq = index.try_commit(holder, [key])
        assert seq is not None
        assert not durability.is_reached(seq)
        first = asyncio.ensure_future(durability.reached(seq))
        other = durability.reached(seq)
        await asyncio.sleep(0.02)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        assert isinstance(other, asyncio.Future)
        assert other.cancelled()
        again = asyncio.ensure_future(durability.reached(seq))
        await asyncio.sleep(0.02)
        assert not again.done()
        may_flush.set()
        await again
        assert durability.is_reached(seq)
