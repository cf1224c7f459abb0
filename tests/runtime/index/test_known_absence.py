# SPDX-License-Identifier: GPL-2.0-only
"""What is known of leaves that are not in memory: answered at once, and as if they had been read."""

from pathlib import Path
from random import Random

from bcached.runtime.index.conditional_commits import CommitConditions
from bcached.state.index.region_filter import REGION_SHIFT
from instruments.samples.large_index import (
    COUNT,
    a_large_index,
    check_reopened,
    commit_if,
    found,
    image_of,
    reserve,
    slots,
)
from instruments.time.virtual_time import in_virtual_time

REGION = 1 << REGION_SHIFT
ASKED = 200


@in_virtual_time
async def test_nothing_is_found_or_added_without_reading_a_leaf(tmp_path: Path) -> None:
    async with a_large_index(tmp_path, spacing=REGION) as (cache_set, there, holder):
        io, random = cache_set.index.nodes.io, Random(1)
        before = io.nodes_read
        absent = random.sample([place for place in range(COUNT) if place not in there], ASKED)
        for place in absent:
            assert await found(cache_set, place, REGION) == []
            (key,) = await reserve(cache_set, holder, [place], spacing=REGION)
            added = await commit_if(cache_set, holder, [key], CommitConditions(slots([place], REGION), True))
            assert added.committed == (True,)
            assert await found(cache_set, place, REGION) == [key]
            there[place] = key
        assert io.nodes_read - before < ASKED // 4
        for place in absent:
            keys = await reserve(cache_set, holder, [place], spacing=REGION)
            refused = await commit_if(cache_set, holder, keys, CommitConditions((), if_absent=True))
            assert refused.committed == (False,)
            cache_set.allocations.release(holder, keys)
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there, spacing=REGION)


@in_virtual_time
async def test_what_replaced_all_is_found_without_reading_a_leaf(tmp_path: Path) -> None:
    async with a_large_index(tmp_path, spacing=REGION) as (cache_set, there, holder):
        places = sorted(there)[:: len(there) // 40]
        keys = await reserve(cache_set, holder, places, behind=8, spacing=REGION)
        await commit_if(cache_set, holder, keys, CommitConditions(slots(places, REGION)))
        before = cache_set.index.nodes.io.nodes_read
        for place, key in zip(places, keys, strict=True):
            assert await found(cache_set, place, REGION) == [key]
        assert cache_set.index.nodes.io.nodes_read == before


@in_virtual_time
async def test_conditions_are_judged_as_if_all_were_in_memory(tmp_path: Path) -> None:
    """All kinds of commits and look-ups, on few places of many leaves, against a dictionary."""
    async with a_large_index(tmp_path, spacing=REGION) as (cache_set, there, holder):
        random = Random(2)
        few = random.sample(range(COUNT), 150)
        for _ in range(400):
            places = random.sample(few, random.randint(1, 3))
            kind = random.choice(("look", "commit", "replace", "add", "delete", "evict"))
            if kind in ("look", "evict"):  # others are evicted for the leaves that are read
                for place in places if kind == "look" else random.sample(range(0, COUNT, 2), 3):
                    expected = [there[place]] if place in there else []
                    assert await found(cache_set, place, REGION) == expected
                continue
            is_only_added = kind == "add"
            keys = [] if kind == "delete" else await reserve(cache_set, holder, places, spacing=REGION)
            replaced = () if kind == "commit" else slots(places, REGION)
            outcome = await commit_if(cache_set, holder, keys, CommitConditions(replaced, is_only_added))
            if kind == "delete":
                for place in places:
                    there.pop(place, None)
            for place, key, committed in zip(places, keys, outcome.committed, strict=bool(keys)):
                assert committed == (not is_only_added or place not in there)
                if committed:
                    there[place] = key
                else:
                    cache_set.allocations.release(holder, [key])
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there, spacing=REGION)
