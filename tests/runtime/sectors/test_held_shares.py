# SPDX-License-Identifier: GPL-2.0-only
"""Whose connection is closed while another user waits; tests/service/test_users.py tries it over a socket."""

import asyncio
from functools import partial

import pytest

from bcached.errors import NoFreeBuckets
from bcached.runtime.coordination.wait_queue import WaitQueue
from bcached.runtime.sectors.held_shares import CLOSED_AT_ONCE, PATIENCE_S, HeldShares
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.pending_allocations import BucketWait
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.volume_rights import VolumeRights
from instruments.samples.small_member import GEOMETRY
from instruments.time.lines_run import lines_run
from instruments.time.virtual_time import in_virtual_time

DATA_BUCKETS = 10
SECTORS = GEOMETRY.bucket_sectors


class Shares:
    """Holders of several users, and a queue in which some of them wait for a bucket that never comes."""

    def __init__(self) -> None:
        self.holders: list[Holder] = []
        self.closed: list[str] = []
        self.queue = WaitQueue(100, lambda: None, lambda callback: callback)
        self.shares = HeldShares(self.queue, lambda: DATA_BUCKETS / 2, lambda callback: callback)

    def connect(self, name: str, user: int, reserved: range, pinned: range) -> Holder:
        """Add a connection with reservations and pins in these buckets."""
        holder = Holder(name, 1000, GEOMETRY, rights=VolumeRights(user, is_admin=False))
        for bucket in reserved:
            holder.add((0, bucket), bucket * SECTORS, bucket * SECTORS + 8, 0)
        for bucket in pinned:
            holder.read((0, bucket))
        holder.give_way = lambda _: self.closed.append(name)
        self.holders.append(holder)
        self.shares.add(holder)
        return holder

    async def wait(self, holder: Holder) -> None:
        """Let a connection wait in vain for longer than the patience."""
        work = BucketWait(Reserve.NONE, lambda: False)
        work.holder = holder
        waiting = self.queue.submit(work, 1.5 * PATIENCE_S)
        self.shares.watch()
        with pytest.raises(NoFreeBuckets):
            await waiting
        await asyncio.sleep(2 * PATIENCE_S)


@in_virtual_time
async def test_the_connection_with_most_of_the_user_with_more_than_half_is_closed() -> None:
    it = Shares()
    it.connect("few", 1, range(2), range(0))
    it.connect("many", 1, range(2, 4), range(4, 6))
    waits = it.connect("waits", 2, range(6, 9), range(0))
    await it.wait(waits)
    assert it.closed == ["many"]


@in_virtual_time
async def test_connections_that_pin_the_same_buckets_are_closed_together() -> None:
    it = Shares()
    for number in range(15):
        it.connect(f"reader {number}", 1, range(0), range(2, 9))
    it.connect("small", 1, range(2), range(0))
    await it.wait(it.connect("waits", 2, range(9, 10), range(0)))
    assert it.closed == [f"reader {number}" for number in range(15)]


@in_virtual_time
async def test_a_bucket_both_reserved_and_pinned_counts_once() -> None:
    it = Shares()
    it.connect("half", 1, range(5), range(5))
    await it.wait(it.connect("waits", 2, range(0), range(0)))
    assert it.closed == []


@in_virtual_time
async def test_nothing_is_closed_for_another_connection_of_the_same_user() -> None:
    it = Shares()
    it.connect("all", 1, range(10), range(0))
    await it.wait(it.connect("waits", 1, range(0), range(0)))
    other = it.connect("other", 2, range(0), range(0))
    await it.wait(it.holders[1])
    assert it.closed == []
    it.shares.remove(other)
    it.holders.remove(other)
    await it.wait(it.holders[1])
    assert it.closed == [], "it is the only user again"


@in_virtual_time
async def test_many_connections_are_closed_some_at_a_time() -> None:
    it, loop, seen = Shares(), asyncio.get_running_loop(), set[int]()
    for number in range(3 * CLOSED_AT_ONCE):
        holder = it.connect(f"reader {number}", 1, range(0), range(1))

        def give_way(_: int) -> None:
            it.closed.append("reader")
            loop.call_soon(lambda: seen.add(len(it.closed)))

        holder.give_way = give_way
    await it.wait(it.connect("waits", 2, range(9, 10), range(0)))
    assert len(it.closed) == 3 * CLOSED_AT_ONCE - DATA_BUCKETS // 2
    assert seen == {CLOSED_AT_ONCE, 2 * CLOSED_AT_ONCE, len(it.closed)}


@in_virtual_time
async def test_a_look_takes_as_many_steps_whatever_is_held() -> None:
    steps = []
    for buckets in (10, 500):
        it = Shares()
        it.connect("much", 1, range(buckets), range(buckets // 2, buckets))
        it.connect("little", 2, range(buckets, buckets + 1), range(0))
        steps.append(lines_run(partial(it.shares._greedy_user, {2})))
        assert it.shares.most_of_a_user == buckets
    assert steps[0] == steps[1]
