# SPDX-License-Identifier: GPL-2.0-only
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import NamedTuple

import pytest

from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.state.sectors.open_buckets import KIND_SLOTS_MIN, OPEN_BUCKETS_MAX, OpenBuckets, Slot

BUCKET_SECTORS, BLOCK_SECTORS = 64, 8
GEOMETRY = Geometry(520, 1, BUCKET_SECTORS, BLOCK_SECTORS, 4)
ONE, FLASH_ONLY, TWO = 2, 3, 4  # kinds


class WalkedSlot:
    def __init__(self, number: int) -> None:
        self.number = number
        self.stream: tuple[int, int, int] | None = None  # the seed's zeroed slots would match inode 0 at 0
        self.writer: tuple[int, int] | None = None
        self.kind = 0
        self.free = 0


class Walk:
    """The seed's list of slots, walked for each request: pick_data_bucket and bch_alloc_sectors."""

    def __init__(self) -> None:
        self.slots = [WalkedSlot(number) for number in range(OPEN_BUCKETS_MAX)]  # oldest first

    def pick(self, kind: int, inode: int, offset: int, write_point: int) -> WalkedSlot:
        of_writer = None
        for slot in reversed(self.slots):
            if slot.stream == (kind, inode, offset):
                return slot
            if slot.writer == (kind, write_point):
                of_writer = slot
        return of_writer or self.oldest(kind)

    def oldest(self, kind: int) -> WalkedSlot:
        """The seed knows no kinds; where the oldest slot is open for another one, ours looks for its own."""
        own = [slot for slot in self.slots if slot.kind == kind]
        if self.slots[0].free and self.slots[0].kind != kind and len(own) >= KIND_SLOTS_MIN:
            return own[0]
        return self.slots[0]

    def carve(
        self, slot: WalkedSlot, kind: int, inode: int, offset: int, sectors: int, write_point: int
    ) -> int:
        if slot.free == 0 or slot.kind != kind:
            slot.free, slot.kind = BUCKET_SECTORS, kind
        given = min(sectors, slot.free)
        slot.free -= given
        if slot.free < BLOCK_SECTORS:
            slot.free = 0
        slot.stream, slot.writer = (kind, inode, offset + given), (kind, write_point)
        self.slots.remove(slot)
        self.slots.append(slot)
        return given


class Ours:
    """The same steps with what is to be tested."""

    def __init__(self) -> None:
        self.open_buckets = OpenBuckets(GEOMETRY)
        self.numbers = {slot: number for number, slot in enumerate(self.open_buckets)}
        self.next_bucket = 1
        self.cut_on = 0

    def carve(self, kind: int, inode: int, offset: int, sectors: int, write_point: int) -> tuple[int, int]:
        slot = self.open_buckets.choose(kind, inode, offset, write_point)
        if slot.sectors_free and slot.kind != kind:
            self.open_buckets.close(slot)
        if not slot.sectors_free:
            pointer = Pointer(0, self.next_bucket * BUCKET_SECTORS, 1)
            self.open_buckets.refill(slot, kind, (pointer,))
            self.next_bucket += 1
        given, _ = self.open_buckets.carve(slot, inode, offset, sectors, write_point)
        return self.numbers[slot], given


def requests(seed: int, count: int, kinds: list[int]) -> list[tuple[int, int, int, int, int]]:
    """Streams that go on, begin anew, collide and jump, from a few writers or very many."""
    rng = Random(seed)
    writers = rng.choice([3, 40, 200, 1000])
    ends: list[tuple[int, int]] = [(0, 0)]
    found = []
    for _ in range(count):
        if rng.random() < 0.6:
            inode, offset = rng.choice(ends[-rng.choice([1, 5, 300]) :])
        else:
            inode, offset = rng.randrange(3), rng.randrange(8) * 8
        sectors = rng.choice([1, 8, 8, 8, 16, 60, 64, 200])
        found.append((rng.choice(kinds), inode, offset, sectors, rng.randrange(writers)))
        ends.append((inode, offset + min(sectors, BUCKET_SECTORS)))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kinds", [[ONE], [ONE, FLASH_ONLY, TWO]], ids=["one kind", "three kinds"])
def test_it_chooses_as_the_seeds_walk_does(seed: int, kinds: list[int]) -> None:
    walk, ours = Walk(), Ours()
    for number, (kind, inode, offset, sectors, write_point) in enumerate(requests(seed, 2000, kinds)):
        slot = walk.pick(kind, inode, offset, write_point)
        given = walk.carve(slot, kind, inode, offset, sectors, write_point)
        here = ours.carve(kind, inode, offset, sectors, write_point)
        assert here == (slot.number, given), f"seed {seed}, request {number}"
    assert [ours.numbers[slot] for slot in ours.open_buckets] == [slot.number for slot in walk.slots]
    assert [slot.sectors_free for slot in ours.open_buckets] == [slot.free for slot in walk.slots]


class Asked(NamedTuple):
    kind: int
    write_point: int
    inode: int
    offset: int
    sectors: int


def cut_rows(ours: Ours, asked: list[Asked]) -> list[Key]:
    """The keys of extents of one kind and write point, cut in rows as far as each goes."""
    keys: list[Key] = []
    while len(keys) < len(asked):
        kind, write_point, inode, offset, sectors = asked[len(keys)]
        number, given = ours.carve(kind, inode, offset, sectors, write_point)
        slot = ours.open_buckets.newest
        assert ours.numbers[slot] == number
        pointer = Pointer(0, slot.sectors[0] - given, 1)
        keys.append(Key(inode, offset, given, kind == FLASH_ONLY, (pointer,)))
        if slot.sectors_free:
            more, bounds = ours.open_buckets.carve_on(slot, inode, asked[len(keys) :], write_point)
            assert bounds == [
                keys[-1].pointers[0].sector + given,
                *(key.pointers[0].sector + key.sectors for key in more),
            ]
            keys += more
            ours.cut_on += len(more)
    return keys


@pytest.mark.parametrize("seed", range(6))
def test_cutting_on_is_the_same_as_one_at_a_time(seed: int) -> None:
    rng = Random(seed)
    single, rows = Ours(), Ours()
    asked = []
    write_point = 0
    for kind, inode, offset, sectors, other in requests(seed, 3000, [ONE, FLASH_ONLY]):
        if rng.random() < 0.1:
            write_point = other
        asked.append(Asked(kind, write_point, inode, offset, sectors))
        for _ in range(rng.choice([0, 0, 3, 20])):  # a stream that goes on, here and there with a jump
            last = asked[-1]
            begin = last.offset + last.sectors if rng.random() < 0.8 else rng.randrange(8) * 8
            asked.append(last._replace(offset=begin, sectors=rng.choice([1, 8, 8, 8, 16])))
    keys = []
    for _, row in groupby(asked, itemgetter(0, 1)):
        keys += cut_rows(rows, list(row))
    for number, (key, one) in enumerate(zip(keys, asked, strict=True)):
        _, given = single.carve(one.kind, one.inode, one.offset, one.sectors, one.write_point)
        sector = single.open_buckets.newest.sectors[0] - given
        is_dirty = one.kind == FLASH_ONLY
        assert key == Key(one.inode, one.offset, given, is_dirty, (Pointer(0, sector, 1),)), number
    for here, there in zip(single.open_buckets, rows.open_buckets, strict=True):
        assert single.numbers[here] == rows.numbers[there]
        assert (here.stream, here.writer, here.sectors_free) == (
            there.stream,
            there.writer,
            there.sectors_free,
        )
    assert rows.cut_on > len(asked) / 4


def opened(slot: Slot, open_buckets: OpenBuckets, kind: int = ONE, *buckets: int) -> Slot:
    pointers = tuple(
        Pointer(device, bucket * BUCKET_SECTORS, 7) for device, bucket in enumerate(buckets or (1,))
    )
    open_buckets.refill(slot, kind, pointers)
    return slot


def test_a_fresh_slot_matches_nothing() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    oldest, second = list(open_buckets)[:2]
    opened(oldest, open_buckets)
    open_buckets.carve(oldest, 0, 8, 8, 0)
    assert open_buckets.choose(ONE, 0, 0, 1) is second  # the oldest, not some zeroed slot that matches 0 at 0


def test_a_stream_is_followed_before_a_writer() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    one, two = list(open_buckets)[:2]
    for slot, inode, write_point in ((one, 1, 5), (two, 2, 6)):
        opened(slot, open_buckets)
        open_buckets.carve(slot, inode, 0, 8, write_point)
    assert open_buckets.choose(ONE, 1, 8, 6) is one
    assert open_buckets.choose(ONE, 1, 9, 6) is two
    assert open_buckets.choose(ONE, 2, 8, 5) is two


def test_of_equal_streams_the_newest_of_equal_writers_the_oldest() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slots = list(open_buckets)[:3]
    for slot in slots:
        opened(slot, open_buckets)
        open_buckets.carve(slot, 1, 0, 8, 5)
    assert open_buckets.choose(ONE, 1, 8, 9) is slots[2]
    assert open_buckets.choose(ONE, 3, 0, 5) is slots[0]


def test_kinds_never_share_a_bucket() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slot = opened(next(iter(open_buckets)), open_buckets)
    open_buckets.carve(slot, 1, 0, 8, 5)
    assert open_buckets.choose(TWO, 1, 8, 5) is not slot
    assert open_buckets.choose(FLASH_ONLY, 1, 8, 5) is not slot
    assert open_buckets.choose(ONE, 1, 8, 5) is slot


def test_two_kinds_in_turn_do_not_close_each_others_buckets_for_ever() -> None:
    ours, rng = Ours(), Random(4)
    for number in range(4000):
        # No stream goes on and no writer comes back.
        ours.carve(rng.choice([ONE, TWO]), 0, 8 * BUCKET_SECTORS * number, 1, number)
    buckets = 4000 / BUCKET_SECTORS
    assert ours.next_bucket < buckets + 2 * OPEN_BUCKETS_MAX


def test_a_kind_without_slots_gets_some_even_when_all_are_open() -> None:
    ours = Ours()
    for number in range(OPEN_BUCKETS_MAX):
        ours.carve(ONE, 0, 1000 * number, 1, number)
    slots = {ours.carve(TWO, 0, 1000 * number, 1, 1000 + number)[0] for number in range(50)}
    assert len(slots) == KIND_SLOTS_MIN


@pytest.mark.parametrize(
    ("sectors", "given", "left"),
    [(8, 8, 56), (56, 56, 8), (57, 57, 0), (63, 63, 0), (64, 64, 0), (1000, 64, 0)],
)
def test_a_bucket_gives_what_it_has_and_drops_what_is_below_a_block(
    sectors: int, given: int, left: int
) -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slot = opened(next(iter(open_buckets)), open_buckets)
    assert open_buckets.carve(slot, 1, 0, sectors, 5) == (given, (Pointer(0, BUCKET_SECTORS, 7),))
    assert slot.sectors_free == left
    assert slot.sectors == (BUCKET_SECTORS + given,)
    assert open_buckets.open_count == (left > 0)


def test_copies_are_cut_from_all_their_buckets_alike() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slot = opened(next(iter(open_buckets)), open_buckets, TWO, 3, 9)
    assert slot.bucket_ids == ((0, 3), (1, 9))
    open_buckets.carve(slot, 1, 0, 8, 5)
    given, pointers = open_buckets.carve(slot, 1, 8, 8, 5)
    assert given == 8
    assert pointers == (Pointer(0, 3 * 64 + 8, 7), Pointer(1, 9 * 64 + 8, 7))
    assert slot.sectors == (3 * 64 + 16, 9 * 64 + 16)


def test_an_empty_slot_gives_nothing_and_an_open_one_is_not_refilled() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slot = next(iter(open_buckets))
    with pytest.raises(AssertionError, match="no free sectors"):
        open_buckets.carve(slot, 1, 0, 8, 5)
    with pytest.raises(AssertionError, match="no open bucket"):
        open_buckets.close(slot)
    assert next(iter(open_buckets)) is slot
    opened(slot, open_buckets)
    with pytest.raises(AssertionError, match="still has free sectors"):
        opened(slot, open_buckets, ONE, 2)
    assert slot.bucket_ids == ((0, 1),)


def test_closing_gives_the_buckets_up() -> None:
    open_buckets = OpenBuckets(GEOMETRY)
    slot = opened(next(iter(open_buckets)), open_buckets, TWO, 3, 9)
    assert open_buckets.close(slot) == ((0, 3), (1, 9))
    assert (slot.sectors_free, open_buckets.open_count) == (0, 0)


def test_what_is_forgotten_leaves_no_trace() -> None:
    ours = Ours()
    for request in requests(99, 3000, [ONE, TWO]):
        ours.carve(*request)
    open_buckets = ours.open_buckets
    assert sum(map(len, open_buckets._by_stream.values())) <= OPEN_BUCKETS_MAX
    assert sum(map(len, open_buckets._by_writer.values())) <= OPEN_BUCKETS_MAX
    assert all(open_buckets._by_stream.values())
    assert all(open_buckets._by_writer.values())
