# SPDX-License-Identifier: GPL-2.0-only
"""Looks for a state that must not be: a story, what cuts may leave of it, and what comes after some of those.

All of it follows from the story's seed, to the byte.
"""

import secrets
import traceback
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

from bcached.errors import BcachedError
from instruments.crash.crash_judge import Complaint, cuts
from instruments.crash.crash_states import draw_states
from instruments.crash.key_judge import KeyJudge
from instruments.samples.leaves_away import TreeFigures
from instruments.stories.key_story import KeyStory
from instruments.stories.workloads import (
    OPERATIONS,
    TALL_BUCKETS,
    Base,
    Kind,
    Operation,
    after_a_cut,
    after_a_kill,
    all_workloads,
    by_chance,
    furnish,
    furnish_tall,
    play,
)
from instruments.time.virtual_time import run_in_virtual_time

T = TypeVar("T")
LITTLE_MEMORY_BYTES = 12_000  # of an index: two leaves or three
RANDOM_OF_BCACHED = ("bcached.runtime.lifetime.SystemRandom",)
UUIDS_OF_BCACHED = ("bcached.store.make.layout.uuid4", "bcached.runtime.volumes.uuid4")


@dataclass
class Tally:
    """What was looked at so far, and what was found."""

    stories: int = 0
    moments: int = 0
    states: int = 0
    distinct: int = 0
    openings: int = 0
    check_every: int = 1  # of the openings
    complaints: list[tuple[str, Complaint]] = field(default_factory=list)  # where, what
    trees: TreeFigures = field(default_factory=TreeFigures)
    evacuated: int = 0  # buckets
    prints: set[int] = field(default_factory=set)  # of the states judged here: each counts once

    def __getstate__(self) -> dict[str, object]:
        """What another process wants to know."""
        return vars(self) | {"prints": set()}

    def add(self, other: "Tally") -> None:
        """Add what was looked at in another case: its states are none of these."""
        self.stories += other.stories
        self.moments += other.moments
        self.states += other.states
        self.distinct += other.distinct
        self.openings += other.openings
        self.trees.add(other.trees)
        self.evacuated += other.evacuated
        self.complaints += other.complaints

    def judge(self, story: KeyStory, where: str, seed: int, states: int, from_moment: int = 0) -> bool:
        """Judge a story's states, until one must not be; whether none is."""
        judge = KeyJudge(story, Random(seed), states, self.check_every)
        wrong = next(judge.complaints(from_moment), None)
        self.stories += 1
        self.trees.add(story.tree)
        self.evacuated += story.evacuated
        self.moments += judge.moments
        self.states += judge.states
        self.distinct += len(judge.prints - self.prints)
        self.prints |= judge.prints
        self.openings += judge.memo.results
        if wrong is not None:
            self.complaints.append((where, wrong))
        return wrong is None

    def life(self, where: str, work: Coroutine[Any, Any, T], images: Sequence[bytearray] = ()) -> T | None:
        """What came of a life; None if it broke, which it must not."""
        try:
            return told(work)
        except (BcachedError, AssertionError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"the life broke: {error!r} at {place.filename}:{place.lineno}"
            self.complaints.append((where, Complaint(0, 0, text, list(images))))
            return None

    def told(self) -> str:
        """What is wrong, in a line; empty if nothing is."""
        return "; ".join(
            f"{where}: moment {it.moment}, state {it.number}: {it.text}" for where, it in self.complaints
        )


@contextmanager
def determined(seed: int) -> Iterator[None]:
    """Have nothing depend on chance but on the seed."""
    random = Random(f"chance {seed}")
    patches: list[Any] = [
        patch.object(secrets, "randbits", random.getrandbits),
        patch("time.time", lambda: 1.7e9),
        *(patch(name, lambda: Random(random.random())) for name in RANDOM_OF_BCACHED),
        *(patch(name, lambda: UUID(int=random.getrandbits(128))) for name in UUIDS_OF_BCACHED),
    ]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def told(coroutine: Coroutine[Any, Any, T]) -> T:
    """A story, told in virtual time."""
    result: T = run_in_virtual_time(coroutine)
    return result


def explore(
    seed: int,
    *,
    states: int,
    again: int = 0,
    check_every: int = 1,
    only: Sequence[Operation] = OPERATIONS,
) -> Tally:
    """A story by chance, and `again` lives after cuts and after kills."""
    tally, kind = Tally(check_every=check_every), kind_of(seed)
    with determined(seed), TemporaryDirectory() as folder:
        story = tally.life(f"seed {seed}", by_chance(seed, Path(folder), only, kind))
        if story is None or not tally.judge(story, f"seed {seed}", seed, states):
            return tally
        random = Random(f"again {seed}")
        for number, images in enumerate(images_after_cuts(story, random, again)):
            where = f"seed {seed}, life {number} after a cut"
            after = tally.life(where, after_a_cut(images, seed * 100 + number, Path(folder), kind), images)
            if after:
                tally.judge(after, where, seed, states)
        for number in range(again):
            moment = random.randrange(story.opened_at, story.clock.now + 1)
            where = f"seed {seed}, killed at {moment}"
            killed = tally.life(where, after_a_kill(story, moment, seed * 100 + number))
            if killed:
                tally.judge(killed[0], where, seed, states, killed[1])
    return tally


def kind_of(seed: int) -> Kind:
    """Of eight stories one is of a tree of three levels, or soon of three; one or two lack memory."""
    number, which = divmod(seed, 8)
    options = {"index_bytes": LITTLE_MEMORY_BYTES}
    if which == 5:
        return Kind(tall_base(three_levels=number % 2 > 0), options if number // 2 % 2 else {})
    return Kind(options=options if which == 6 else {})


@cache
def tall_base(*, three_levels: bool) -> Base:
    """A set with a tree of many leaves."""

    async def furnished(folder: Path) -> Base:
        story = await KeyStory.fresh(folder, TALL_BUCKETS)
        await furnish_tall(story, three_levels=three_levels)
        return Base.of([disk.image() for disk in story.disks])

    with determined(0), TemporaryDirectory() as folder:
        return told(furnished(Path(folder)))


def images_after_cuts(story: KeyStory, random: Random, wanted: int) -> Iterator[list[bytearray]]:
    """Whole images of some states, taken from all over the story."""
    total = sum(1 for _ in cuts(story))
    chosen = set(random.sample(range(total), min(wanted, total)))
    for number, (_, _, walks) in enumerate(cuts(story)):
        if number in chosen:
            drawn = list(draw_states(walks, random, 12))
            yield [state.image() for state in random.choice(drawn)]


def explore_workload(
    workload: Sequence[str], base: Base, seed: int, *, states: int, tally: Tally | None = None
) -> Tally:
    """The states that cuts leave of the last operation of a workload; one of several in a tally, if given."""
    tally = tally or Tally()
    with determined(seed), TemporaryDirectory() as folder:
        story, since = told(play(base, workload, seed, Path(folder)))
        tally.judge(story, f"{' '.join(workload)}, seed {seed}", seed, states, since)
    return tally


def base_of(seed: int, *counts: int) -> Base:
    """A set for workloads to begin with."""

    async def furnished(folder: Path) -> Base:
        story = await KeyStory.fresh(folder, *counts)
        await furnish(story, Random(seed))
        return Base.of([disk.image() for disk in story.disks])

    with determined(seed), TemporaryDirectory() as folder:
        return told(furnished(Path(folder)))


__all__ = ["Base", "Tally", "all_workloads", "base_of", "explore", "explore_workload"]
