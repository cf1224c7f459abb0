# SPDX-License-Identifier: GPL-2.0-only
"""Random runs with keys that come and go, against a model of the index, of what is on disk, and of crashes.

The model knows the keys sector by sector, which journal entries are durable, which gens are on disk, and all
pointers that leaves on disk may still hold. After every step: the live sectors are those of the keys; nothing
dirty and nothing pinned is ever stale; after a crash right here every key that looks valid would point to its
owner's data; and no bucket that a leaf on disk names, not stale by the gen on disk, is in use as metadata.
"""

import os
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import pytest

from bcached.errors import RequestError
from bcached.keys import Key, Pointer
from bcached.set_state import Replacement
from bcached.state.accounting.invariants import content, violations
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.gens import behind
from bcached.state.buckets.geometry import BucketId, Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.next_step import Step
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import Holder
from instruments.samples.allocator_by_hand import AllocatorByHand
from instruments.samples.small_member import GEOMETRY, a_member, an_allocator, metadata_of, run, use

STEPS = int(os.environ.get("BCACHED_MODEL_STEPS", "600"))
VOLUME_SECTORS = 100


class Cell(NamedTuple):
    """One sector of a volume: where its copies lie, and how often these sectors had been given out then."""

    pointers: tuple[Pointer, ...]
    dirty: bool
    times: tuple[int, ...]


Change = dict[tuple[int, int], Cell | None]  # (inode, sector)


def key_of(inode: int, sector: int, cell: Cell) -> Key:
    return Key(inode, sector, 1, cell.dirty, cell.pointers)


class Run:
    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.geometry = rng.choice([GEOMETRY, Geometry(600, 2, 16, 8, 8), Geometry(1100, 1, 8, 8, 4)])
        self.members = [a_member(self.geometry, number, seed=seed) for number in range(rng.choice([1, 1, 2]))]
        self.allocator = an_allocator(*self.members)
        self.live = LiveSectors(self.members)
        self.hands = [AllocatorByHand(member, rng.choice(list(Replacement))) for member in self.members]
        self.holders = [Holder(f"holder {number}", 10**6, self.geometry) for number in range(3)]
        self.given: dict[Holder, list[Key]] = {holder: [] for holder in self.holders}
        self.pinned: dict[Holder, list[Key]] = {holder: [] for holder in self.holders}
        self.metadata: list[BucketId] = []
        self.times: Counter[tuple[int, int]] = Counter()  # how often a sector of a device was given out
        self.index: dict[tuple[int, int], Cell] = {}
        self.durable_index: dict[tuple[int, int], Cell] = {}
        self.entries: list[tuple[int, Change]] = []  # not durable
        self.seq = 1
        self.gens_on_disk = [bytes(member.table.gens_on_disk) for member in self.members]
        self.leaf_pointers: set[tuple[int, int, int]] = set()
        self.did: Counter[str] = Counter()
        self.moods: list[float] = []  # how often this run does each thing, against the usual
        for member in self.members:  # nearly full, so that it is scarce; what is in it is nobody's here
            self.fill(member, rng.choice([20, 40, 100]))

    def fill(self, member: MemberBuckets, spare: int) -> None:
        use(member, *list(member.table.in_state(State.EMPTY))[spare:])
        self.others = [bytes(member.table.dirty_sectors) for member in self.members]

    def step(self) -> None:
        actions = {
            self.carve: 30, self.commit: 30, self.commit_wrongly: 2, self.release: 5, self.mark_clean: 8,
            self.drop: 10, self.release_all: 3, self.make_durable: 5, self.rewrite_leaves: 1, self.pin: 4,
            self.unpin: 5,
            self.end_reads: 0.5, self.touch: 1, self.take_metadata: 5, self.free_metadata: 5, self.work: 90,
            self.end_prios: 15, self.end_collection: 8, self.break_connection: 0.5,
        }  # fmt: skip
        if not self.moods:
            self.moods = [self.rng.choice([0.2, 1, 1, 3]) for _ in actions]
        weights = [weight * mood for weight, mood in zip(actions.values(), self.moods, strict=True)]
        action = self.rng.choices(list(actions), weights)[0]
        action()

    def bucket(self, pointer: Pointer) -> int:
        return self.geometry.bucket_of(pointer.sector)

    # Data

    def carve(self) -> None:
        rng = self.rng
        holder = rng.choice(self.holders)
        replicas, inode = rng.randint(1, len(self.members)), rng.randrange(4)
        key = self.allocator.carve(
            holder, inode, rng.randrange(VOLUME_SECTORS - 16), rng.choice([1, 4, 8, 16]), rng.randrange(3),
            replicas, rng.random() < 0.1,
        )  # fmt: skip
        for hand in self.hands:
            (hand.waiting.discard if key else hand.waiting.add)(Reserve.NONE)
        if key is None:
            return
        self.given[holder].append(key)
        for pointer in key.pointers:
            for sector in range(key.sectors):
                self.times[pointer.device, pointer.sector + sector] += 1

    def some_of(self, keys: dict[Holder, list[Key]]) -> tuple[Holder, Key] | None:
        owners = [holder for holder in self.holders if keys[holder]]
        if not owners:
            return None
        holder = self.rng.choice(owners)
        return holder, keys[holder].pop(self.rng.randrange(len(keys[holder])))

    def commit(self) -> None:
        """One or two keys, or parts of them."""
        if not (found := self.some_of(self.given)):
            return
        holder, key = found
        keys = [key]
        if self.given[holder] and self.rng.random() < 0.3:
            keys.append(self.given[holder].pop())
        keys = [self.part_of(key, holder) for key in keys]
        self.allocator.check_commit(holder, keys)
        ended = self.allocator.end_reservations(holder, keys)
        self.put(keys)
        self.allocator.drop_pins(ended)
        self.did["commit"] += 1

    def part_of(self, key: Key, holder: Holder) -> Key:
        """A part from the front, perhaps at another place of the volume; the rest stays reserved."""
        rng = self.rng
        sectors = rng.randint(1, key.sectors)
        if sectors < key.sectors:
            rest = tuple(Pointer(it.device, it.sector + sectors, it.gen) for it in key.pointers)
            self.given[holder].append(Key(key.inode, key.offset, key.sectors - sectors, False, rest))
        dirty = key.inode == 3 or rng.random() < 0.2
        return Key(key.inode, rng.randrange(VOLUME_SECTORS - sectors), sectors, dirty, key.pointers)

    def commit_wrongly(self) -> None:
        """Somebody else's key, one's own twice, or one of another gen."""
        if not (found := self.some_of(self.given)):
            return
        holder, key = found
        self.given[holder].append(key)
        other = self.rng.choice(self.holders)
        first = key.pointers[0]
        stale = (Pointer(first.device, first.sector, first.gen - 1 & 255), *key.pointers[1:])
        wrong = [(holder, [key, key]), (holder, [Key(key.inode, 0, key.sectors, False, stale)])]
        if other is not holder:
            wrong.append((other, [key]))
        for who, keys in wrong:
            with pytest.raises(RequestError):
                self.allocator.check_commit(who, keys)
            with pytest.raises(RequestError):
                self.allocator.end_reservations(who, keys)

    def put(self, keys: Sequence[Key]) -> None:
        """Accepted for the open journal entry, or for the next."""
        self.seq += self.rng.random() < 0.5
        change: Change = {}
        for key in keys:
            for number in range(key.sectors):
                pointers = tuple(Pointer(it.device, it.sector + number, it.gen) for it in key.pointers)
                times = tuple(self.times[it.device, it.sector] for it in pointers)
                cell = Cell(pointers, key.dirty, times) if pointers else None
                change[key.inode, key.offset + number] = cell
            self.live.remove(self.cut(key), self.seq)
            self.live.add(key)
            for place in change:
                if place[0] == key.inode and key.offset <= place[1] < key.end:
                    self.set(self.index, place, change[place])
        self.entries.append((self.seq, change))

    def cut(self, key: Key) -> list[Key]:
        """What a key takes the place of, sector by sector."""
        places = [(key.inode, sector) for sector in range(key.offset, key.end)]
        return [key_of(*place, self.index[place]) for place in places if place in self.index]

    def set(self, index: dict[tuple[int, int], Cell], place: tuple[int, int], cell: Cell | None) -> None:
        if cell is None:
            index.pop(place, None)
        else:
            index[place] = cell

    def release(self) -> None:
        if found := self.some_of(self.given):
            holder, key = found
            self.allocator.release(holder, [key])

    def release_all(self) -> None:
        holder = self.rng.choice(self.holders)
        self.allocator.end(holder)
        self.given[holder].clear()
        self.pinned[holder].clear()

    def drop(self) -> None:
        """An invalidation of a range, or of nearly everything."""
        sectors = self.rng.choice([20, 50, VOLUME_SECTORS])
        self.put([Key(self.rng.randrange(4), self.rng.randrange(VOLUME_SECTORS), sectors, False, ())])
        self.did["drop"] += 1

    def mark_clean(self) -> None:
        dirty = [(place, cell) for place, cell in self.index.items() if cell.dirty]
        for place, cell in self.rng.sample(dirty, min(len(dirty), 12)):
            self.put([Key(*place, 1, False, cell.pointers)])
            self.index[place] = cell._replace(dirty=False)

    # Readers

    def current(self) -> list[Key]:
        return [
            key_of(*place, cell)
            for place, cell in self.index.items()
            if all(self.allocator.validity.gen_of(pointer) == pointer.gen for pointer in cell.pointers)
        ]

    def pin(self) -> None:
        keys, holder = self.current(), self.rng.choice(self.holders)
        keys = self.rng.sample(keys, min(len(keys), 3))
        self.allocator.readers.pin(holder, keys)
        self.pinned[holder] += keys
        self.did["pin"] += bool(keys)

    def unpin(self) -> None:
        if found := self.some_of(self.pinned):
            holder, key = found
            self.allocator.readers.unpin(holder, [key])

    def bucket_id(self, pointer: Pointer) -> BucketId:
        return pointer.device, self.bucket(pointer)

    def end_reads(self) -> None:
        holder = self.rng.choice(self.holders)
        self.allocator.readers.end(holder)
        self.pinned[holder].clear()

    def touch(self) -> None:
        self.allocator.validity.touch(self.current()[:5])

    def break_connection(self) -> None:
        holder = self.holders.pop(self.rng.randrange(len(self.holders)))
        run(self.allocator.quarantine(holder))
        self.verify(holder)
        run(self.allocator.end_quarantine(holder))
        new = Holder("another", 10**6, self.geometry)
        self.holders.append(new)
        self.given[new], self.pinned[new] = [], []
        del self.given[holder], self.pinned[holder]

    # What is on disk

    def make_durable(self) -> None:
        """Some of the entries, and the leaves they belong to at once, which is worst."""
        if not self.entries:
            return
        seq = self.rng.choice(self.entries)[0] if self.rng.random() < 0.7 else self.seq
        self.durable_through(seq)

    def durable_through(self, seq: int) -> None:
        for _, change in [entry for entry in self.entries if entry[0] <= seq]:
            for place, cell in change.items():
                self.set(self.durable_index, place, cell)
                for pointer in cell.pointers if cell else ():
                    self.leaf_pointers.add((pointer.device, self.bucket(pointer), pointer.gen))
        self.entries = [entry for entry in self.entries if entry[0] > seq]
        self.seq = max(self.seq, seq + 1)  # it was sealed
        for member in self.members:
            self.did["retired"] += member.emptying_durable(seq)

    def rewrite_leaves(self) -> None:
        """Leaves on disk hold nothing but what the durable entries say."""
        self.leaf_pointers = {
            (pointer.device, self.bucket(pointer), pointer.gen)
            for cell in self.durable_index.values()
            for pointer in cell.pointers
        }

    # Metadata

    def take_metadata(self) -> None:
        taken = self.allocator.take_metadata(State.BTREE)
        for hand in self.hands:
            (hand.waiting.discard if taken else hand.waiting.add)(Reserve.BTREE)
        if taken is not None:
            self.metadata.append(taken)
            self.did["metadata"] += 1

    def free_metadata(self) -> None:
        if len(self.metadata) > 3:
            device, bucket = self.metadata.pop(self.rng.randrange(len(self.metadata)))
            self.members[device].free_metadata([bucket])

    # The set's own work

    def work(self) -> None:
        hand = self.rng.choice(self.hands)
        step = hand.next_step()
        if step is not Step.WAIT:
            hand.do(step)
        self.did["kept for data"] += bool(hand.buckets.reserves.for_data)
        self.did["kept back"] += bool(hand.buckets.unused.only_for_data)

    def end_prios(self) -> None:
        hand = self.rng.choice(self.hands)
        if hand.snapshot is not None:
            self.durable_through(self.seq)  # its entry carries all that was accepted
            self.gens_on_disk[hand.buckets.device] = bytes(hand.snapshot[0])
            hand.end_prios()

    def end_collection(self) -> None:
        hand = self.rng.choice(self.hands)
        if hand.marking is None:
            return
        self.durable_through(self.seq)
        self.rewrite_leaves()
        pointers = [(device, bucket, gen) for device, bucket, gen in self.leaf_pointers]
        mine = np.array([it[1:] for it in pointers if it[0] == hand.buckets.device], np.int64).reshape(-1, 2)
        hand.marking.mark_pointers(mine[:, 0], mine[:, 1])
        hand.end_collection()

    # What must be true

    def verify(self, *broken: Holder) -> None:
        metadata = [metadata_of(member) for member in self.members]
        for device, bucket in self.metadata:
            metadata[device][State.BTREE].add(bucket)
        assert violations(self.allocator, [*self.holders, *broken], metadata) == []
        self.verify_counts()
        self.verify_promises()
        self.verify_crash()

    def verify_counts(self) -> None:
        counts = [np.frombuffer(others, np.uint16).astype(np.int64) for others in self.others]
        sectors, dirty_sectors = counts, [column.copy() for column in counts]
        for cell in self.index.values():
            for pointer in cell.pointers:
                if self.allocator.validity.gen_of(pointer) == pointer.gen:
                    sectors[pointer.device][self.bucket(pointer)] += 1
                    dirty_sectors[pointer.device][self.bucket(pointer)] += cell.dirty
        for member in self.members:
            assert list(content(member, sectors[member.device], dirty_sectors[member.device])) == []

    def verify_promises(self) -> None:
        for place, cell in self.index.items():
            if cell.dirty:
                for pointer in cell.pointers:
                    assert self.allocator.validity.gen_of(pointer) == pointer.gen, (
                        f"dirty data at {place} is lost"
                    )
        for holder, keys in self.pinned.items():
            expected = Counter(self.bucket_id(pointer) for key in keys for pointer in key.pointers)
            if holder in self.holders:
                assert holder.reads == expected
                assert all(
                    self.allocator.validity.gen_of(it) == it.gen for key in keys for it in key.pointers
                )

    def verify_crash(self) -> None:
        gens = [bytearray(on_disk) for on_disk in self.gens_on_disk]
        for device, bucket, gen in self.leaf_pointers:
            if 0 < (gen - gens[device][bucket]) & 255 < 128:
                gens[device][bucket] = gen
        for place, cell in self.durable_index.items():
            for pointer, times in zip(cell.pointers, cell.times, strict=True):
                bucket = self.bucket(pointer)
                if not behind(pointer.gen, gens[pointer.device][bucket]):
                    found = self.times[pointer.device, pointer.sector]
                    assert found == times, f"{place} points to somebody else's data after a crash"
        for device, bucket, gen in self.leaf_pointers:
            state = State(self.members[device].table.states[bucket])
            if state <= State.UUID:
                on_disk = self.gens_on_disk[device][bucket]
                assert behind(gen, on_disk), f"bucket {bucket} is {state.name}, and a leaf names it"

    def end(self) -> None:
        """All is given back, and everything comes to rest with full reserves."""
        for holder in self.holders:
            self.allocator.end(holder)
            self.pinned[holder].clear()
        for device, bucket in self.metadata:
            self.members[device].free_metadata([bucket])
        self.metadata.clear()
        for inode in range(4):
            self.put([Key(inode, 0, 2 * VOLUME_SECTORS, False, ())])
        self.durable_through(self.seq)
        self.verify()
        for hand in self.hands:
            hand.waiting = {Reserve.BTREE, Reserve.NONE}
            if hand.snapshot is not None:
                self.gens_on_disk[hand.buckets.device] = bytes(hand.snapshot[0])
                hand.end_prios()
            if hand.marking is not None:
                hand.end_collection()
            hand.settle()
            assert hand.buckets.reserves.has(Reserve.NONE)
            assert hand.buckets.reserves.has(Reserve.BTREE)
            assert hand.buckets.has_prio_chain


def play(seed: int, steps: int = STEPS) -> Run:
    the_run = Run(seed)
    for number in range(steps):
        try:
            the_run.step()
            the_run.verify()
        except BaseException:
            print(f"\nBCACHED_MODEL_SEED={seed} failed at step {number} of {steps}")
            raise
    the_run.end()
    return the_run


@pytest.mark.parametrize("seed", range(3))
def test_a_random_run_with_keys_agrees_with_the_model(seed: int) -> None:
    play(seed)


def test_a_fresh_run_with_keys_agrees_with_the_model() -> None:
    play(int(os.environ.get("BCACHED_MODEL_SEED", str(Random().randrange(10**9)))))


def test_runs_with_keys_do_what_they_are_for() -> None:
    did: Counter[str] = Counter()
    for seed in range(4, 10):
        did += play(seed).did
    for what in ("commit", "drop", "pin", "retired", "metadata", "kept for data", "kept back"):
        assert did[what] > 5, did
