# SPDX-License-Identifier: GPL-2.0-only
"""Commits that replace ranges, or only add: against a model of every sector, and what they refuse."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcached.errors import InvalidParameter, LimitExceeded, NoSuchVolume, NotReserved, RequestError
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.conditional_commits import (
    REPLACED_KEYS_MAX,
    REPLACED_SECTORS_MAX,
    CommitConditions,
    CommitResult,
)
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.key_ranges import Span
from bcached.state.sectors.reservations import Holder
from instruments.samples.living_set import extent, fresh_members, reopened, set_options
from instruments.time.virtual_time import in_virtual_time, run_in_virtual_time

PATIENCE_S = 10.0
Place = tuple[int, int]


@dataclass
class Client:
    """A client of a set, and the model: which physical sector each sector of a volume has."""

    cache_set: CacheSet
    model: dict[Place, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.holder: Holder = self.cache_set.allocations.new_holder("client")

    async def reserve(self, spans: Sequence[Span]) -> list[Key]:
        wanted = [extent(end - start, inode=inode, offset=start, whole=True) for inode, start, end in spans]
        if not wanted:
            return []
        keys = await self.cache_set.allocations.allocate(self.holder, wanted, PATIENCE_S)
        return [key for row in keys for key in row]

    async def commit(
        self,
        keys: Sequence[Key],
        *replaces: Span,
        if_absent: bool = False,
        if_versions: Sequence[int] | None = None,
    ) -> CommitResult:
        """Commit as a request does: at once if that is possible."""
        expected = None if if_versions is None else tuple(if_versions)
        conditions = CommitConditions(replaces, if_absent, expected)
        commits = self.cache_set.conditional_commits
        at_once = commits.try_commit(self.holder, keys, conditions)
        return at_once or await commits.commit(self.holder, keys, conditions, PATIENCE_S)

    def expect(self, keys: Sequence[Key], replaces: Sequence[Span], committed: Sequence[bool]) -> None:
        """Make the change in the model."""
        for inode, start, end in replaces:
            for sector in range(start, end):
                self.model.pop((inode, sector), None)
        for key, was_committed in zip(keys, committed, strict=True):
            for step in range(key.sectors if was_committed else 0):
                self.model[key.inode, key.offset + step] = key.pointers[0].sector + step

    def holds(self, inode: int, start: int, end: int) -> bool:
        return any((inode, sector) in self.model for sector in range(start, end))

    def may_add(self, keys: Sequence[Key], replaces: Sequence[Span]) -> list[bool]:
        """By the model: which keys are added if nothing may be there."""
        taken = [span for span in replaces if self.holds(*span)]
        return [
            not self.holds(key.inode, key.offset, key.end)
            and not any(
                key.inode == inode and key.offset < end and start < key.end for inode, start, end in taken
            )
            for key in keys
        ]

    async def found(self) -> dict[Place, int]:
        places: dict[Place, int] = {}
        for inode in self.cache_set.sectors.inodes:
            result = await self.cache_set.lookups.lookup(LookupRequest(inode, 0, 1 << 30))
            for key in result.keys:
                places |= {
                    (inode, key.offset + step): key.pointers[0].sector + step for step in range(key.sectors)
                }
        return places


@asynccontextmanager
async def a_client(folder: Path, *, verify: bool = True) -> AsyncIterator[Client]:
    async with running(await fresh_members([600], 16 << 10), set_options(folder, verify=verify)) as cache_set:
        for label in ("one", "other"):
            await cache_set.volumes.open(label)
        yield Client(cache_set)
        assert cache_set.verify() == []


SPANS = st.builds(
    lambda inode, start, sectors: (inode, start, start + sectors),
    st.integers(0, 1),
    st.integers(0, 60),
    st.integers(1, 40),
)
STEPS = st.tuples(st.lists(SPANS, max_size=4), st.lists(SPANS, max_size=3), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_they_do_what_a_model_of_every_sector_does(steps: list[tuple[list[Span], list[Span], bool]]) -> None:
    async def play(folder: Path) -> None:
        async with a_client(folder) as client:
            for spans, replaces, if_absent in steps:
                keys = await client.reserve(spans)
                seq = client.cache_set.journal.accepted_seq
                held = client.holder.sectors
                expected = client.may_add(keys, replaces) if if_absent else [True] * len(keys)
                try:
                    outcome = await client.commit(keys, *replaces, if_absent=if_absent)
                except InvalidParameter:
                    assert if_absent
                    assert client.holder.sectors == held
                    client.cache_set.allocations.release(client.holder, keys)
                else:
                    assert list(outcome.committed) == expected
                    client.expect(keys, () if if_absent else replaces, expected)
                    left = [key for key, done in zip(keys, expected, strict=True) if not done]
                    client.cache_set.allocations.release(client.holder, left)
                assert client.holder.sectors == 0
                assert client.cache_set.journal.accepted_seq <= seq + 1
                assert await client.found() == client.model

    with TemporaryDirectory() as folder:
        run_in_virtual_time(play(Path(folder)))


@in_virtual_time
async def test_what_a_shorter_value_leaves_of_a_longer_one_goes_with_the_same_entry(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        await client.commit(await client.reserve([(0, 0, 48), (0, 100, 108), (0, 300, 308)]))
        before = client.cache_set.journal.open_entry.key_count
        keys = await client.reserve([(0, 0, 8)])
        outcome = await client.commit(keys, (0, 0, 256))
        assert client.cache_set.journal.open_entry.key_count - before == 2, "a deletion and a key"
        assert outcome.committed == (True,)
        places = await client.found()
        assert {sector for _, sector in places} == {*range(8), *range(300, 308)}


@in_virtual_time
async def test_nothing_is_journalled_where_nothing_is(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        seq = client.cache_set.journal.accepted_seq
        assert await client.commit((), (0, 0, 1000), (1, 0, 1 << 20)) == CommitResult(seq, (), ())
        before = client.cache_set.journal.open_entry.key_count
        await client.commit(await client.reserve([(0, 0, 8)]), (0, 0, 1 << 17))
        assert client.cache_set.journal.open_entry.key_count - before == 1


@in_virtual_time
async def test_what_is_in_one_range_is_added_together_or_not_at_all(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        await client.commit(await client.reserve([(0, 16, 24)]))
        before = await client.found()
        keys = await client.reserve([(0, 0, 8), (0, 8, 16), (0, 1000, 1008)])
        seq = client.cache_set.journal.accepted_seq
        outcome = await client.commit(keys, (0, 0, 32), (0, 1000, 1032), if_absent=True)
        assert outcome.committed == (False, False, True)
        assert (await client.found()).keys() == before.keys() | {(0, sector) for sector in range(1000, 1008)}
        assert client.holder.sectors == 16, "what was not committed stays reserved"
        outcome = await client.commit(keys[:2], (0, 0, 32), if_absent=True)
        assert (outcome.seq, outcome.committed) == (client.cache_set.journal.accepted_seq, (False, False))
        assert seq <= outcome.seq
        await client.commit((), (0, 16, 24))
        assert (await client.commit(keys[:2], (0, 0, 32), if_absent=True)).committed == (True, True)


@in_virtual_time
async def test_of_two_that_add_the_same_one_does(tmp_path: Path) -> None:
    async with a_client(tmp_path) as one:
        other = Client(one.cache_set)
        keys = [await client.reserve([(0, 0, 8)]) for client in (one, other)]
        outcomes = await asyncio.gather(
            one.commit(keys[0], if_absent=True), other.commit(keys[1], if_absent=True)
        )
        assert [outcome.committed for outcome in outcomes] == [(True,), (False,)]


@in_virtual_time
async def test_of_two_that_have_seen_the_same_version_one_commits(tmp_path: Path) -> None:
    async with a_client(tmp_path) as one:
        other = Client(one.cache_set)
        first = await one.commit(await one.reserve([(0, 0, 64)]))
        keys = [await client.reserve([(0, 0, 8), (0, 8, 16)]) for client in (one, other)]
        seen = first.versions[:1] * 2
        outcomes = await asyncio.gather(
            one.commit(keys[0], (0, 0, 1 << 17), if_versions=seen),
            other.commit(keys[1], (0, 0, 1 << 17), if_versions=seen),
        )
        assert [outcome.committed for outcome in outcomes] == [(True, True), (False, False)]
        assert outcomes[0].versions == outcomes[1].versions != seen
        assert (await one.found()).keys() == {(0, sector) for sector in range(16)}, "the rest was removed"
        assert other.holder.sectors == 16, "what was not committed stays reserved"
        assert (await other.commit(keys[1], if_versions=outcomes[1].versions)).committed == (True, True)
        (key,) = await one.reserve([(0, 0, 8)])
        assert (await one.commit([key], if_absent=True, if_versions=seen[:1])).committed == (False,)
        for versions in ((), (1, 2)):
            with pytest.raises(InvalidParameter, match="one for each key"):
                await one.commit([key], if_versions=versions)
        assert (await one.commit((), if_versions=())).committed == ()


@in_virtual_time
async def test_what_is_stale_is_not_there(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        (key,) = await client.reserve([(0, 0, 8)])
        await client.commit([key])
        commits, buckets = client.cache_set.conditional_commits, client.cache_set.members[0].buckets
        bucket = buckets.geometry.bucket_of(key.pointers[0].sector)

        def plan(keys: Sequence[Key], *replaces: Span, if_absent: bool = False) -> Any:
            return commits._plan(KeyBatch(keys), CommitConditions(replaces, if_absent))

        assert plan([key], if_absent=True).committed == (False,)
        buckets.table.gens[bucket] += 1
        assert plan([key], if_absent=True).committed == (True,)
        assert not plan([], (0, 0, 8)).deletions
        buckets.table.gens[bucket] -= 1
        assert plan([], (0, 0, 8)).deletions == [Key(0, 0, 8, False, ())]


@in_virtual_time
async def test_a_version_is_the_counter_right_after_the_change(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        counter = client.cache_set.index.changes.change_map.counter
        keys = await client.reserve([(0, 0, 8), (0, 8, 16), (1, 0, 8)])
        first = await client.commit(keys)
        assert first.versions == (counter(0, 0), counter(0, 8), counter(1, 0))
        assert first.versions[0] >= 2, "one for each key"
        (more,) = await client.reserve([(0, 0, 8)])
        second = await client.commit([more], (0, 0, 1 << 17))
        assert second.versions[0] > first.versions[0]
        assert counter(1, 0) == first.versions[2], "another volume"
        (late,) = await client.reserve([(0, 0, 8)])
        third = await client.commit([late], if_absent=True)
        assert third.versions == second.versions, "nothing has changed"


@in_virtual_time
async def test_every_kind_of_change_counts_where_it_changes_keys(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        cache_set, counter = client.cache_set, client.cache_set.index.changes.change_map.counter
        (key,) = await client.reserve([(0, 1 << 17, (1 << 17) + 8)])
        seen = counter(0, 1 << 17)
        elsewhere = counter(0, 0)
        await client.commit([Key(key.inode, key.offset, key.sectors, True, key.pointers)])
        for change in (
            cache_set.index.mark_clean([key], PATIENCE_S),
            cache_set.index.invalidate(0, (1 << 17) + 4, 1, PATIENCE_S),
            cache_set.volumes.delete(0, force=True),
        ):
            before, seen = seen, counter(0, 1 << 17)
            assert seen == before + 1
            await change
        assert counter(0, 1 << 17) > seen
        assert counter(0, 0) == elsewhere


@in_virtual_time
async def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        other = Client(client.cache_set)
        await client.commit(await client.reserve([(0, 0, 48)]))
        keys = await client.reserve([(0, 100, 108), (0, 104, 112)])
        strangers = await other.reserve([(0, 200, 208)])
        before, seq = await client.found(), client.cache_set.journal.accepted_seq
        refused: list[tuple[type[RequestError], Sequence[Key], tuple[Span, ...], bool]] = [
            (NoSuchVolume, keys, ((7, 0, 8),), False),
            (LimitExceeded, keys, ((0, 0, REPLACED_SECTORS_MAX + 1),), False),
            (InvalidParameter, keys, (), True),
            (NotReserved, [keys[0], *strangers], ((0, 0, 48),), False),
            (NotReserved, [keys[0], *strangers], (), True),
        ]
        for error, asked, replaces, if_absent in refused:
            with pytest.raises(error):
                await client.commit(asked, *replaces, if_absent=if_absent)
        assert client.cache_set.journal.accepted_seq == seq
        assert client.cache_set.journal.open_entry.key_count in (0, 2)
        assert await client.found() == before
        assert (client.holder.sectors, other.holder.sectors) == (16, 8)


@in_virtual_time
async def test_a_commit_replaces_so_many_keys_and_no_more(tmp_path: Path) -> None:
    async with a_client(tmp_path, verify=False) as client:
        many = REPLACED_KEYS_MAX + 1
        for start in range(0, many, 64):
            spans = [(0, 2 * number, 2 * number + 1) for number in range(start, min(start + 64, many))]
            await client.commit(await client.reserve(spans))
        with pytest.raises(LimitExceeded, match="replaced_keys"):
            await client.commit((), (0, 0, 2 * many))
        await client.commit((), (0, 0, 2 * many - 2))
        assert set(await client.found()) == {(0, 2 * many - 2)}


@in_virtual_time
async def test_a_commit_and_what_it_replaces_are_in_the_next_life_together(tmp_path: Path) -> None:
    members = await fresh_members([600], 16 << 10)
    async with running(members, set_options(tmp_path)) as cache_set:
        await cache_set.volumes.open("one")
        client = Client(cache_set)
        await client.commit(await client.reserve([(0, 0, 48)]))
        outcome = await client.commit(await client.reserve([(0, 0, 8)]), (0, 0, 256))
        await cache_set.index.durable(outcome.seq)
        found = await client.found()
    async with running(reopened(members), set_options(tmp_path)) as cache_set:
        assert await Client(cache_set).found() == found
        assert {sector for _, sector in found} == set(range(8))
