# SPDX-License-Identifier: GPL-2.0-only
"""At every point at which a task goes on, something goes wrong once: its client is gone, the set is told to
stop, the daemon is interrupted, a device fails. The set stands it, or ends with one error of its own; and a
later life finds all that was acknowledged. BCACHED_SWEEP=1 goes through all points, otherwise some."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bcached.errors import BcachedError, DeviceError
from instruments.clients.keeping_client import OwnWriteFailed
from instruments.stories.stories import STORIES, Life, Story
from instruments.time.await_points import AwaitPoints, awaits_in
from instruments.time.virtual_time import run_in_virtual_time

ALL = bool(os.environ.get("BCACHED_SWEEP"))
every_story = pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())


Action = Callable[[Life], None]
ACTIONS: dict[str, tuple[Action, tuple[type[BaseException], ...]]] = {
    "its client is gone": (Life.lose_the_client, ()),
    "told to stop": (Life.stop, ()),
    "interrupted": (Life.interrupt, ()),
    "a device fails": (Life.break_a_device, (DeviceError, OwnWriteFailed)),
}


def count_points(story: Story, images: list[bytes], folder: Path) -> AwaitPoints:
    """The story without any mishap."""
    points = AwaitPoints()

    async def undisturbed() -> None:
        life = Life(images, folder)
        await life.run(story, points)
        await life.check(folder)

    run_in_virtual_time(undisturbed())
    return points


@every_story
@pytest.mark.parametrize("action", ACTIONS)
def test_at_every_point(story: Story, action: str, tmp_path: Path) -> None:
    act, errors = ACTIONS[action]
    images = run_in_virtual_time(story.stage(tmp_path))
    count = count_points(story, images, tmp_path).count
    assert count > 50

    async def disturbed(at: int) -> None:
        life = Life(images, tmp_path)
        with suppress(*errors):
            await life.run(story, AwaitPoints(at, lambda: act(life)))
        await life.check(tmp_path)

    some = 10 * list(ACTIONS).index(action)
    for at in range(1, count + 1) if ALL else range(some + 7, count + 1, 400 if story.long else 131):
        try:
            run_in_virtual_time(disturbed(at))
        except BaseException as failure:
            failure.add_note(f"at point {at} of {count}")
            raise


# What no story waits at, and why.
NOT_PASSED = {
    "bucket_lock": "free nearly always: nobody waits for anything else while holding it",
    "asyncio.timeout": "entering it does not wait",
    "AsyncExitStack": "entering it does not wait",
    "asyncio.TaskGroup": "entering it does not wait; leaving it is seen as the end of its block",
    "await asyncio.sleep(min(LOOK_INTERVAL_S": "test_fence.py",
    "await wait_for_old_writers": "test_fence.py",
    "await _name_holders(": "test_fence.py",
    "asyncio.to_thread(lease.holders)": "test_fence.py",
    "await self.notify_now()": "waits for bucket_lock only",
    "runtime/tasks/moving_collector.py async for": "what is moved lies, nearly always, in a leaf just marked",
    "runtime/warming/": "the client of a set that serves no other: test_warming.py cuts it anywhere",
    "runtime/tasks/evacuator.py": "test_evacuation.py, and a story of test_crash_states.py",
    "await self.evacuator.run(": "the same",
    "await self._stale_keys.rewrite(leaf)": "test_index.py has clean keys become stale",
    "await self._write_back.rewrite(leaf, drop_stale)": "the same",
    "await self.tidier.rewrite_outdated(": "test_index.py has a bucket used often after a node freed it",
    "await self._write_back.rewrite(interior)": "the same",
    "forget_copies(": "test_index_mishaps.py has one of two copies become stale",
    "words_of(keys), timeout_s)": "the same",
    "await self._write_back.reduce_unwritten()": "test_waiting_changes.py has very many keys wait",
    "await self._write_back.rewrite_torn()": "test_index_mishaps.py tears a node",
    "await write_back.coalesce(level,": "test_crash_states.py has trees of three levels",
    "await self._pacer.checkpoint()": "in several places, of which the stories pass some",
    "await asyncio.sleep(PAUSE_SLICES": "test_pacing.py",
    "make_ready_for(": "moving finds its leaf loaded and the journal ready, nearly always",
    "self._clock(), may_wait)": "test_known_absence.py adds where leaves have to be read for that",
    "wait_to_grow(": "in three places, of which the stories pass one or two",
    "words_of([new]), timeout_s)": "moving finds its leaf loaded and the journal ready, nearly always",
    "await self._shared.queue.submit(work, FOREVER_S, first=True)": "test_index.py",
    "await asyncio.sleep(0)  # all of it may": "test_large_trees.py looks through leaves that hold nothing",
    "await self._nodes.leaf_at(inode, start)": "a loop over an async generator shows none of its waits",
    "await asyncio.sleep(0)  # all may": "the same",
    "device, bucket = await": "test_volumes.py takes all buckets for metadata away",
    "await self._write(self._table.with_owner(": "test_volume_owners.py",
    "runtime/volumes.py await self._run(change)": "the same",
}


def test_the_stories_pass_every_await(tmp_path: Path) -> None:
    passed: set[tuple[str, int]] = set()
    for name, story in STORIES.items():
        folder = tmp_path / name
        folder.mkdir()
        images = run_in_virtual_time(story.stage(folder))
        passed |= count_points(story, images, folder).passed
    missed = [
        f"{file}:{first} {text}"
        for file, first, last, text in sorted(awaits_in("runtime"))
        if not any((file, line) in passed for line in range(first, last + 1))
        and not any(known in f"{file} {text}" for known in NOT_PASSED)
    ]
    assert "\n".join(missed) == ""


def test_an_error_of_ours_ends_the_set(tmp_path: Path) -> None:
    """The sweep would not see a set that goes on with a bug."""
    story = next(iter(STORIES.values()))
    images = run_in_virtual_time(story.stage(tmp_path))

    async def spoilt() -> None:
        life = Life(images, tmp_path)

        def spoil() -> None:
            raise ZeroDivisionError

        await life.run(story, AwaitPoints(60, spoil))

    with pytest.raises((ZeroDivisionError, BcachedError)):
        run_in_virtual_time(spoilt())
