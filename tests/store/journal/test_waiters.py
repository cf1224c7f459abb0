# SPDX-License-Identifier: GPL-2.0-only
"""Waiting: everybody whose turn has come is woken, and nobody minds those who have gone."""

import asyncio

import pytest

from bcached.store.journal.waiters import Waiters


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_those_up_to_a_number_are_woken() -> None:
    waiters = Waiters()
    tasks = [asyncio.create_task(waiters.wait(number)) for number in (3, 5, 4)]
    await settle()
    assert waiters.most == 5
    waiters.wake(4)
    await settle()
    assert [task.done() for task in tasks] == [True, False, True]
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
    waiters.wake(1)
    tasks[0].cancel()
    await asyncio.gather(*tasks[1:])
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
