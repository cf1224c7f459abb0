# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import LimitExceeded, NotReserved, RequestError
from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.state.sectors.reservations import Holder

BUCKET_SECTORS = 16
GEOMETRY = Geometry(520, 1, BUCKET_SECTORS, 8, 4)


def key(*sectors: int, size: int = 8) -> Key:
    """A key with a pointer on each of as many devices."""
    pointers = tuple(Pointer(device, sector, 0) for device, sector in enumerate(sectors))
    return Key(0, 0, size, False, pointers)


def a_holder(*runs: tuple[int, int, int], limit: int = 100, inode: int = 0) -> Holder:
    """Holds (device, start, end) runs."""
    holder = Holder("somebody", limit, GEOMETRY)
    for device, start, end in runs:
        holder.add((device, start // BUCKET_SECTORS), start, end, inode)
    return holder


def held(holder: Holder) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
    return {place: list(pieces) for place, pieces in holder.pieces.items()}


def test_whole_pieces_go_with_their_pin_and_their_place() -> None:
    holder = a_holder((0, 0, 8), (0, 8, 16))
    assert holder.remove([key(0)]) == [((0, 0), 1)]
    assert held(holder) == {(0, 0): [(8, 16, 0)]}
    assert holder.remove([key(8)]) == [((0, 0), 1)]
    assert held(holder) == {}
    assert holder.total == 0


@pytest.mark.parametrize(("start", "size", "pins"), [(32, 4, 0), (36, 12, 0), (36, 4, -1), (32, 16, 1)])
def test_a_part_costs_or_frees_as_many_pins_as_pieces_change(start: int, size: int, pins: int) -> None:
    holder = a_holder((0, 32, 48))
    assert holder.remove([key(start, size=size)]) == [((0, 2), pins)]
    assert holder.total == 1 - pins
    assert holder.sectors == 16 - size


@pytest.mark.parametrize(
    "missing",
    [key(16), key(4), key(0, 0), key(0, size=9), key(8, size=16)],
    ids=["another bucket", "across a border", "another device", "more than was held", "across buckets"],
)
def test_if_one_key_is_not_held_none_is_given_back(missing: Key) -> None:
    holder = a_holder((0, 0, 8), (0, 8, 16), (1, 32, 40), (0, 64, 80))
    before = held(holder)
    with pytest.raises(NotReserved) as refused:
        holder.remove([key(64), key(76, size=4), key(8), missing])
    assert refused.value.fields == {"key": missing}
    assert held(holder) == before
    assert holder.total == 4


def test_one_key_twice_is_not_held_the_second_time() -> None:
    holder = a_holder((0, 0, 8))
    with pytest.raises(NotReserved):
        holder.remove([key(0), key(0)])
    assert held(holder) == {(0, 0): [(0, 8, 0)]}


def test_all_copies_go_together() -> None:
    holder = a_holder((0, 0, 8), (1, 40, 48))
    assert holder.remove([key(0, 40)]) == [((0, 0), 1), ((1, 2), 1)]
    assert held(holder) == {}


def test_cutting_out_middles_stops_at_the_limit() -> None:
    holder = a_holder((0, 0, 16), limit=2)
    holder.remove([key(2, size=1)])
    before = held(holder)
    with pytest.raises(LimitExceeded):
        holder.remove([key(0, size=1), key(10, size=1)])
    assert held(holder) == before
    assert holder.total == 2
    holder.limit = 1  # lowered meanwhile: giving back what does not add pieces goes on
    holder.remove([key(0, size=1), key(1, size=1), key(3, size=13)])
    assert holder.total == 0


def test_the_limit_counts_what_is_gathered_for_the_owner() -> None:
    owner = a_holder((0, 0, 8), (0, 8, 16), limit=4)
    gathered = Holder("waiting", 4, GEOMETRY, owner)
    gathered.add((0, 1), 16, 24, 0)
    gathered.check_room(1)
    with pytest.raises(LimitExceeded) as refused:
        gathered.check_room(2)
    assert refused.value.fields == {"limit": "reservations_per_connection", "value": 5}


@pytest.mark.parametrize(
    ("asked", "covered"),
    [
        (key(0), True),
        (key(2, size=4), True),
        (key(0, 40), True),
        (key(0, 32), False),
        (key(4), False),
        (key(), False),
        (key(160), False),
    ],
)
def test_a_key_is_covered_if_every_sector_of_every_copy_is_held(asked: Key, covered: bool) -> None:
    holder = a_holder((0, 0, 8), (0, 8, 16), (1, 40, 48))
    assert holder.covers(asked) is covered


def test_what_was_gathered_is_handed_over_whole() -> None:
    owner = a_holder((0, 0, 8), (0, 32, 40))
    gathered = a_holder((0, 8, 16), (1, 0, 8))
    owner.absorb(gathered)
    assert held(owner) == {(0, 0): [(0, 8, 0), (8, 16, 0)], (0, 2): [(32, 40, 0)], (1, 0): [(0, 8, 0)]}
    assert (owner.total, gathered.total, held(gathered)) == (4, 0, {})


def test_the_pieces_of_one_volume_split_off() -> None:
    holder = a_holder((0, 0, 8), inode=1)
    holder.add((0, 0), 8, 16, 2)
    holder.add((0, 1), 16, 24, 2)
    other = holder.split_off(2, list(holder.pieces))
    assert held(holder) == {(0, 0): [(0, 8, 1)]}
    assert held(other) == {(0, 0): [(8, 16, 2)], (0, 1): [(16, 24, 2)]}
    assert (holder.total, other.total) == (1, 2)
    assert held(holder.split_off(9, list(holder.pieces))) == {}


def test_forgetting_a_bucket_tells_what_was_held_of_it() -> None:
    holder = a_holder((0, 0, 8), (0, 8, 12), (1, 16, 20))
    forgotten = holder.forget((0, 0))
    assert (list(forgotten), forgotten.sectors) == ([(0, 8, 0), (8, 12, 0)], 12)
    assert (holder.total, holder.sectors, held(holder)) == (1, 4, {(1, 1): [(16, 20, 0)]})


class Model:
    """Sectors, each with the number of the piece it belongs to."""

    def __init__(self) -> None:
        self.sectors: dict[tuple[int, int], int] = {}
        self.pieces = 0

    def add(self, device: int, start: int, end: int) -> None:
        self.pieces += 1
        self.sectors |= {(device, sector): self.pieces for sector in range(start, end)}

    def remove(self, keys: list[Key]) -> bool:
        sectors = dict(self.sectors)
        for one in keys:
            for pointer in one.pointers:
                run = [(pointer.device, pointer.sector + number) for number in range(one.sectors)]
                owners = {sectors.pop(sector, None) for sector in run}
                if len(owners) != 1 or None in owners:
                    return False
                (owner,) = owners
                behind = (pointer.device, pointer.sector + one.sectors)
                if sectors.get(behind) == owner:  # what is behind the cut is a piece of its own
                    self.pieces += 1
                    while sectors.get(behind) == owner:
                        sectors[behind] = self.pieces
                        behind = behind[0], behind[1] + 1
        self.sectors = sectors
        return True


runs = st.tuples(st.integers(0, 1), st.integers(0, 47), st.integers(1, 10))
keys = st.builds(
    lambda sectors, size: key(*sectors, size=size),
    st.lists(st.integers(0, 63), min_size=1, max_size=2),
    st.integers(1, 16),
)


@given(st.lists(runs, max_size=12), st.lists(st.lists(keys, min_size=1, max_size=3), max_size=12))
def test_any_releases_agree_with_a_set_of_sectors(
    adds: list[tuple[int, int, int]], releases: list[list[Key]]
) -> None:
    holder, model = Holder("somebody", 1000, GEOMETRY), Model()
    for device, start, size in adds:
        end = min(start + size, (start // BUCKET_SECTORS + 1) * BUCKET_SECTORS)
        if not any((device, sector) in model.sectors for sector in range(start, end)):
            holder.add((device, start // BUCKET_SECTORS), start, end, 0)
            model.add(device, start, end)
    for wanted in releases:
        pins = holder.total
        try:
            dropped = sum(count for _, count in holder.remove(wanted))
        except RequestError:
            dropped = None
        assert model.remove(wanted) is (dropped is not None)
        assert pins - (dropped or 0) == holder.total == len(set(model.sectors.values()))
        here = {
            (device, sector)
            for (device, _), pieces in holder.pieces.items()
            for start, end, _ in pieces
            for sector in range(start, end)
        }
        assert here == set(model.sectors)
        assert holder.sectors == len(here)


# Asking first


@pytest.mark.parametrize(
    "keys",
    [
        [key(0)],
        [key(4, size=4)],
        [key(64), key(76, size=4)],
        [key(16)],
        [key(8), key(8)],
        [key(0, 0)],
        [key(68, size=4)],
        [key(0), key(68, size=4)],
    ],
)
@pytest.mark.parametrize("limit", [4, 100])
def test_asking_tells_what_removing_would_and_changes_nothing(keys: list[Key], limit: int) -> None:
    def outcome(action: object) -> str:
        try:
            action(keys)  # type: ignore[operator]
        except RequestError as error:
            return str(error)
        return "done"

    holder = a_holder((0, 0, 8), (0, 8, 16), (1, 32, 40), (0, 64, 80), limit=limit)
    before = held(holder), holder.total
    asked = outcome(holder.check)
    assert (held(holder), holder.total) == before
    assert outcome(holder.remove) == asked


# Readers


def test_reader_pins_are_counted_by_bucket() -> None:
    holder = a_holder()
    for bucket in (5, 5, 6):
        holder.read((0, bucket))
    assert holder.reads == {(0, 5): 2, (0, 6): 1}
    assert holder.end_read((0, 5))
    assert holder.end_read((0, 6))
    assert not holder.end_read((0, 6))
    assert not holder.end_read((1, 5))
    assert (holder.reads, holder.reads_total) == ({(0, 5): 1}, 1)
    holder.read((0, 5))
    assert holder.forget_reads((0, 5)) == 2
    assert (holder.reads, holder.reads_total) == ({}, 0)


def test_reader_pins_have_a_limit_of_their_own() -> None:
    holder = Holder("somebody", 1, GEOMETRY, reads_limit=3)
    holder.check_reads(3)
    holder.read((0, 5))
    holder.check_reads(2)
    with pytest.raises(LimitExceeded) as refused:
        holder.check_reads(3)
    assert refused.value.fields == {"limit": "pins_per_connection", "value": 4}
