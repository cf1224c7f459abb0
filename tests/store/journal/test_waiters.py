# SPDX-License-Identifier: GPL-2.0-only
"""Waiting: everybody whose turn has come is woken, and nobody minds those who have gone."""

import asyncio

import pytest

from bcached.errors import DeviceError
from bcached.store.journal.waiters import AwaitedEntries, Waiters


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_all_are_woken_and_the_most_is_known() -> None:
    waiters = Waiters()
    tasks = [asyncio.create_task(waiters.wait(words)) for words in (3, 5, 4)]
    await settle()
    assert waiters.most == 5
    waiters.wake_all()
    await asyncio.gather(*tasks)
    assert waiters.most == 0


async def test_one_who_has_gone_counts_for_nothing() -> None:
    waiters = Waiters()
    gone, there = (asyncio.create_task(waiters.wait(number)) for number in (9, 2))
    await settle()
    gone.cancel()
    await settle()
    assert waiters.most == 2
    waiters.wake_all()
    await there
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_one_who_goes_at_the_moment_he_is_woken_takes_nothing_from_the_others() -> None:
    waiters = Waiters()
    tasks = [asyncio.create_task(waiters.wait(1)) for _ in range(3)]
    await settle()
    waiters.wake_all()
    tasks[0].cancel()
    await asyncio.gather(*tasks[1:])
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_entries_up_to_the_durable_one_are_completed() -> None:
    entries = AwaitedEntries()
    futures = {seq: entries.future(seq) for seq in (5, 3, 4)}
    assert entries.future(4) is futures[4]
    entries.complete(4)
    assert {seq for seq, future in futures.items() if future.done()} == {3, 4}
    entries.complete(5)
    await futures[5]


async def test_entries_fail_together_and_may_be_waited_for_by_none() -> None:
    entries = AwaitedEntries()
    future = entries.future(7)
    entries.fail(DeviceError("/dev/sdb", "gone"))
    with pytest.raises(DeviceError, match="gone"):
        await future
    entries.complete(9)  # nothing is left to complete
