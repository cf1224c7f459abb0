# SPDX-License-Identifier: GPL-2.0-only
"""Opens the states that power cuts leave, and holds what is found against the ledger."""

from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, TypeVar

import numpy as np

from bcached.errors import BcachedError
from bcached.format.jset import JournalEntry
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import State as BucketState
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.opening.recovery import OpenedSet, recover
from bcached.store.reading.set_reader import Contents, SetFound, read_set
from instruments.crash.crash_states import State, StateDevice, Walk, draw_states
from instruments.crash.kernel_journal import KernelJournal
from instruments.samples.read_back import parse_journal_bucket
from instruments.stories.crash_story import FRESH, Ledger, Story, possible

T = TypeVar("T")


@dataclass(frozen=True)
class Complaint:
    """A state that must not be: where it was cut, which one of those drawn there, and what is wrong."""

    moment: int
    number: int
    text: str
    image: list[bytearray]


def without_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never really waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def cuts(story: Story) -> Iterator[tuple[int, int, list[Walk]]]:
    """Every different set of states, with the first and the last moment at which a cut leaves one of it."""
    walks = [Walk(log) for log in story.logs]
    first = 0
    for moment, positions in enumerate(story.clock.positions):
        upcoming = list(zip(walks, positions, strict=False))  # before the first moment there are none
        if any(walk.would_change(position) for walk, position in upcoming):
            yield first, moment - 1, walks
            first = moment
        for walk, position in upcoming:
            walk.advance(position)
    yield first, story.clock.now, walks


class Judge:
    """Judges the states of one story. What was opened once from the same contents is not opened again."""

    def __init__(self, story: Story, random: Random, states_a_moment: int) -> None:
        self.story = story
        self.random = random
        self.states_a_moment = states_a_moment
        self.states = 0
        self.moments = 0
        self.fresh = 0
        self.opened: dict[object, tuple[dict[int, str], str | None]] = {}

    def complaints(self, from_moment: int = 0) -> Iterator[Complaint]:
        """Draw states at all moments, and tell which must not be."""
        for first, last, walks in cuts(self.story):
            if last < from_moment:
                continue
            self.moments += 1
            for number, drawn in enumerate(draw_states(walks, self.random, self.states_a_moment)):
                self.states += 1
                found = self.complaint(drawn, first, last)
                if found:
                    yield Complaint(last, number, found, [state.image() for state in drawn])

    def complaint(self, drawn: list[State], first: int, last: int) -> str | None:
        """What is wrong with a state that a cut at [first, last] left; None if nothing is."""
        ledger = self.story.ledger
        volumes = possible(ledger.volumes, first, last)
        devices = [StateDevice(state) for state in drawn]
        try:
            found = without_loop(read_set(devices))
        except BcachedError as error:
            return f"refused: {error}"
        if any(device.writes for device in devices):
            return "reading it wrote"
        if found.contents is None:
            self.fresh += 1
            return None if FRESH in volumes else "it is fresh again"
        fields = [possible(changes, first, last) for changes in ledger.fields]
        wrong = (
            _fields(found, fields) or _gens(found.contents, ledger, last) or kernel_complaint(devices, found)
        )
        if wrong:
            return wrong
        print_of_it = _fingerprint(found, found.contents)
        if print_of_it not in self.opened:
            self.opened[print_of_it] = _open(found, found.contents)
        there, wrong = self.opened[print_of_it]
        return wrong or (None if there in volumes else f"volumes are {there}, expected one of {volumes}")


def _fingerprint(found: SetFound, contents: Contents) -> object:
    """All that opening goes by."""
    return (
        tuple(member.superblock for member in found.members),
        tuple(contents.journal.entries),
        tuple((tuple(ring.newest_seqs), ring.index, ring.behind_byte) for ring in contents.journal.rings),
        tuple((tuple(c.buckets), c.seq, c.prios.tobytes(), c.gens.tobytes()) for c in contents.chains),
        tuple(contents.uuids),
    )


def _open(found: SetFound, contents: Contents) -> tuple[dict[int, str], str | None]:
    """The volumes of the open set, and what is wrong with it."""
    try:
        opened = without_loop(recover(found, _make_buckets, lambda: 0.0))
    except (BcachedError, AssertionError) as error:
        return {}, f"not opened: {error!r}"
    volumes = {volume.inode: volume.label for volume in opened.uuid_table.volumes()}
    return volumes, _buckets(opened, contents)


def _make_buckets(geometry: Geometry, device: int) -> MemberBuckets:
    return MemberBuckets(geometry, device, seed=1)


def _fields(found: SetFound, allowed: list[list[Any]]) -> str | None:
    for member, possible_here in zip(found.members, allowed, strict=True):
        fields = (member.superblock.replacement, member.superblock.discard)
        if fields not in possible_here:
            number = member.superblock.member
            return f"{number}: policy and discard are {fields}, expected one of {possible_here}"
    return None


def _gens(contents: Contents, ledger: Ledger, last: int) -> str | None:
    """No gen on disk goes back, and what was handed out through free_inc has its gen there."""
    moment, gens = max(
        (durable for durable in ledger.gens if durable[0] <= last), default=(0, []), key=_moment
    )
    for device, durable in enumerate(gens):
        behind = (durable - contents.chains[device].gens).astype(np.uint8)
        worse = np.flatnonzero((behind > 0) & (behind < 128))
        if worse.size:
            return f"{device}: gens of {worse[:8].tolist()} went back behind those durable at {moment}"
    latest = {promise[1:3]: promise[3] for promise in ledger.handed_out if promise[0] <= last}
    for (device, bucket), gen in latest.items():
        on_disk = int(contents.chains[device].gens[bucket])
        # It may be far ahead by now, but was never behind by more than this.
        if 0 < (gen - on_disk) & 255 <= GEN_DISTANCE_MAX:
            return f"{device}: bucket {bucket} was handed out with gen {gen}, on disk is {on_disk}"
    return None


def _moment(durable: tuple[int, object]) -> int:
    return durable[0]


def _buckets(opened: OpenedSet, contents: Contents) -> str | None:
    """The invariants, and every pointer at its bucket's gen; and the reserves are filled."""
    metadata: list[dict[BucketState, set[int]]] = []
    for member in opened.members:
        journal = set(member.buckets.geometry.journal_buckets)
        metadata.append({BucketState.JOURNAL: journal, BucketState.UUID: set(), BucketState.BTREE: set()})
        if len(member.buckets.reserves.lists[Reserve.PRIO]) < member.buckets.geometry.prio_bucket_count:
            return f"{member.device}: no buckets for a prio write"
        if not opened.journal.free_buckets(member):
            return f"{member.device}: the journal is used up"
    newest = contents.newest
    for key, state in ((newest.uuid_bucket, BucketState.UUID), (newest.root, BucketState.BTREE)):
        pointer = key.pointers[0]
        buckets = opened.members[pointer.device].buckets
        bucket = buckets.geometry.bucket_of(pointer.sector)
        metadata[pointer.device][state].add(bucket)
        if buckets.table.gens[bucket] != pointer.gen:
            return (
                f"pointer to bucket {bucket} has gen {pointer.gen}, the bucket {buckets.table.gens[bucket]}"
            )
    wrong = violations(SectorAllocator([member.buckets for member in opened.members]), [], metadata)
    return wrong[0] if wrong else None


def kernel_complaint(devices: Sequence[StateDevice], found: SetFound) -> str | None:
    """The kernel, which never sees a set of several, must find the same newest entry by its search."""
    if len(devices) > 1 or found.contents is None:
        return None
    superblock = found.members[0].superblock
    bucket_bytes = superblock.bucket_sectors * 512

    def read(index: int) -> list[JournalEntry]:
        offset = superblock.journal_buckets[index] * bucket_bytes
        raw = without_loop(devices[0].read(offset, bucket_bytes))
        return _entries(raw, superblock.set_magic, superblock.block_sectors * 512)

    journal = KernelJournal(len(superblock.journal_buckets), read)
    newest = journal.newest()
    if newest != found.contents.newest:
        return f"the kernel's search finds {newest and newest.seq}, ours {found.contents.newest.seq}"
    return f"the kernel misses entries {journal.missing()}" if journal.missing() else None


@cache
def _entries(raw: bytes, set_magic: int, block_bytes: int) -> list[JournalEntry]:
    return [placed.entry for placed in parse_journal_bucket(raw, set_magic, block_bytes)]


def ledger_of(images: Sequence[bytearray]) -> Ledger:
    """A ledger that begins with what an opening of these images finds."""
    found = without_loop(read_set([StateDevice(State(image, {}, set(), None)) for image in images]))
    fields = [(member.superblock.replacement, member.superblock.discard) for member in found.members]
    if found.contents is None:
        return Ledger.of(FRESH, fields)
    ledger = Ledger.of(
        {inode: entry.label for inode, entry in enumerate(found.contents.uuids) if entry}, fields
    )
    ledger.gens.append((0, [chain.gens for chain in found.contents.chains]))
    return ledger
