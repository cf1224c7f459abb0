# SPDX-License-Identifier: GPL-2.0-only
"""Many look-ups for one reply, on the keys of a real set."""

from pathlib import Path

import pytest

from bcached.errors import NoSuchVolume
from bcached.runtime.cache_set import CacheSet
from bcached.service.methods.many_lookups import LOOKUPS_A_STEP, ManyLookups
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.wire.messages import Lookup
from instruments.clients.served_set import served

SECTORS = 8
STRIDE = 16  # so that no two keys are merged


async def with_keys(cache_set: CacheSet, count: int) -> Holder:
    """Commit keys, and return a holder for the look-ups."""
    holder = cache_set.allocations.new_holder("test")
    for number in range(count):
        request = ExtentRequest(0, STRIDE * number, SECTORS, 1)
        (keys,) = await cache_set.allocations.allocate(holder, [request], 10.0)
        await cache_set.index.commit(holder, keys, 10.0)
    return holder


def lookups_of(cache_set: CacheSet, holder: Holder, *requests: Lookup) -> ManyLookups:
    return ManyLookups(cache_set.lookups, holder, requests, SECTORS - 1)


def one(number: int, inode: int = 0, *, pin: bool = False) -> Lookup:
    return Lookup(inode, STRIDE * number, SECTORS, pin=pin)


async def test_each_look_up_gets_its_own_keys(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        holder = await with_keys(it.cache_set, 3)
        lookups = lookups_of(it.cache_set, holder, one(2), one(7), one(0))
        lookups.begin()
        assert lookups.are_done
        found = lookups.results()
        assert [[key.offset for key in keys] for keys in found.keys] == [[2 * STRIDE], [], [0]]
        assert found.next == (None, None, None)


async def test_very_many_run_in_steps(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        holder = await with_keys(it.cache_set, 1)
        lookups = lookups_of(it.cache_set, holder, *[one(0)] * (2 * LOOKUPS_A_STEP + 1))
        lookups.begin()
        assert not lookups.are_done
        await lookups.go_on()
        assert [len(keys) for keys in lookups.results().keys] == [1] * (2 * LOOKUPS_A_STEP + 1)


async def test_they_share_the_limit_of_one_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.service.methods.many_lookups.messages.FOUND_MAX", 3)
    async with served(tmp_path) as it:
        holder = await with_keys(it.cache_set, 3)
        everything = Lookup(0, 0, 3 * STRIDE)
        lookups = lookups_of(it.cache_set, holder, one(0), everything, everything)
        lookups.begin()
        found = lookups.results()
        assert [len(keys) for keys in found.keys] == [1, 2, 0]
        assert found.next == (None, STRIDE + SECTORS, 0)


async def test_if_one_is_refused_no_key_stays_pinned(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        holder = await with_keys(it.cache_set, 2)
        lookups = lookups_of(it.cache_set, holder, one(0, pin=True), one(1, pin=True), one(0, inode=7))
        with pytest.raises(NoSuchVolume):
            lookups.begin()
        assert holder.reads_total == 0
