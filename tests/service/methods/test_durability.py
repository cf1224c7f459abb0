# SPDX-License-Identifier: GPL-2.0-only
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.errors import DeviceError, DeviceFailed
from bcached.service.methods.durability import Durability
from instruments.clients.served_set import Served, served
from instruments.clients.talker import Talker, call
from instruments.devices.memory_device import MemoryDevice


@asynccontextmanager
async def with_an_open_bucket(folder: Path) -> AsyncIterator[Served]:
    """A served set and one client, to whom a bucket is open."""
    async with served(folder) as it, Talker(it.path) as talker:
        assert "parameters" in await talker.ask(call("Allocate", {"inode": 0, "offset": 0, "sectors": 8}))
        yield it


def commit(it: Served, offset: int) -> int:
    """Accept a key; returns the seq of its entry."""
    holder = next(iter(it.cache_set.allocations.holders))
    key = it.cache_set.allocations.carve(holder, 0, offset, 8, 1)
    assert key is not None
    seq = it.cache_set.index.try_commit(holder, [key])
    assert seq is not None
    return seq


async def test_those_who_wait_for_an_entry_share_a_future_until_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_flush, real = asyncio.Event(), MemoryDevice.flush

    async def slow(device: MemoryDevice) -> None:
        await may_flush.wait()
        await real(device)

    async with with_an_open_bucket(tmp_path) as it:
        monkeypatch.setattr(MemoryDevice, "flush", slow)
        durability = Durability(it.cache_set.index)
        seq = commit(it, 8)
        first = durability.reached(seq)
        assert first is not None
        assert durability.reached(commit(it, 16)) is first
        await asyncio.sleep(0.02)
        assert not first.done()
        later = durability.reached(commit(it, 24))  # the entry is sealed: this key is in the next one
        assert later is not None
        assert later is not first
        may_flush.set()
        await first
        assert durability.reached(seq) is None
        await later


async def test_a_device_that_fails_fails_the_waiters_and_later_ones_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(device: MemoryDevice) -> None:
        raise DeviceError(device.path, "flush: Input/output error")

    kept: list[tuple[Durability, int, asyncio.Future[None]]] = []
    with pytest.raises(DeviceError, match="flush"):  # noqa: PT012 (it ends what serves)
        async with with_an_open_bucket(tmp_path) as it:
            durability = Durability(it.cache_set.index)
            seq = commit(it, 8)
            monkeypatch.setattr(MemoryDevice, "flush", broken)
            waiting = durability.reached(seq)
            assert waiting is not None
            kept.append((durability, seq, waiting))
            await waiting
    ((durability, seq, waiting),) = kept
    assert isinstance(waiting.exception(), DeviceFailed)
    with pytest.raises(DeviceFailed):
        durability.reached(seq)
