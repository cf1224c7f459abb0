# SPDX-License-Identifier: GPL-2.0-only
"""A watcher's view equals the state, whatever appears in it and vanishes from it."""

from pathlib import Path

import msgspec

from bcached.client.state_view import StateView
from bcached.runtime.lifetime import running
from bcached.service.methods.state_changes import StateChanges
from bcached.state.statistics import SetStatistics
from bcached.wire.admin_messages import News
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


def over_the_socket(news: News) -> News:
    return msgspec.json.decode(msgspec.json.encode(news), type=News)


@in_virtual_time
async def test_volumes_that_are_made_and_deleted_appear_and_vanish(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        states: list[SetStatistics] = []

        def statistics() -> SetStatistics:
            states.append(cache_set.statistics())
            return states[-1]

        changes, view = StateChanges(statistics), StateView()
        inodes = [await cache_set.volumes.create("one")]
        news = changes.following()
        assert news is not None
        view.take(over_the_socket(news))
        for label in ("two", "three"):
            inodes.append(await cache_set.volumes.create(label))
            news = changes.following()
            assert news is not None
            assert view.take(over_the_socket(news)) == states[-1].state()
        for inode in inodes:
            await cache_set.volumes.delete(inode)
            news = changes.following()
            assert news is not None
            assert view.take(over_the_socket(news)) == states[-1].state()
            names = [change.name for change in news.changes or () if change.value is None]
            assert names == [f"volumes.{inode}"]
