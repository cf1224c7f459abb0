# SPDX-License-Identifier: GPL-2.0-only
"""Runs of sectors: what they join, and that ending reservations by them is the same as key by key."""

from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import NotReserved
from bcached.format.bkey import CHECK_DEVICE
from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_runs import sector_runs

BUCKET_SECTORS = 16
GEOMETRY = Geometry(520, 1, BUCKET_SECTORS, 8, 4)


def key(sector: int, sectors: int = 4, *, device: int = 0, gen: int = 1, dirty: bool = False) -> Key:
    return Key(3, 700, sectors, dirty, (Pointer(device, sector, gen),))


def runs_of(*keys: Key) -> list[tuple[int, int, int]]:
    return [(run.start, run.end, run.behind - run.first) for run in sector_runs(keys, BUCKET_SECTORS)]


def test_keys_one_behind_the_other_are_one_run() -> None:
    assert runs_of(key(16), key(20), key(24)) == [(16, 28, 3)]
    assert runs_of(key(20), key(16)) == [(20, 24, 1), (16, 20, 1)]


def test_a_run_has_one_bucket_gen_and_device_and_is_dirty_or_not() -> None:
    assert runs_of(key(24), key(28), key(32)) == [(24, 32, 2), (32, 36, 1)]
    another_volume = Key(4, 700, 4, False, (Pointer(0, 20, 1),))
    for other in (key(20, gen=2), key(20, device=1), key(20, dirty=True), another_volume):
        assert runs_of(key(16), other) == [(16, 20, 1), (20, 24, 1)]


def test_each_copy_is_a_run_and_a_key_without_any_is_nowhere() -> None:
    copies = Key(0, 0, 4, False, (Pointer(0, 16, 1), Pointer(1, 48, 1)))
    assert runs_of(key(12), copies, key(20)) == [(12, 16, 1), (16, 20, 1), (48, 52, 1), (20, 24, 1)]
    (run,) = sector_runs([Key(0, 0, 4, False, ())], BUCKET_SECTORS)
    assert run.device == CHECK_DEVICE


PIECES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=6)
KEYS = st.lists(st.tuples(st.integers(0, 44), st.integers(1, 6)), min_size=1, max_size=6)


@given(PIECES, KEYS, st.booleans())
def test_reservations_end_as_key_by_key(
    pieces: list[tuple[int, int]], wanted: list[tuple[int, int]], adjacent: bool
) -> None:
    keys = [key(start, sectors) for start, sectors in wanted]
    if adjacent:
        first, sectors = wanted[0]
        keys = [key(first + number * sectors, sectors) for number in range(len(wanted))]
    outcomes: list[object] = []
    for groups in ([keys], [[one] for one in keys]):
        holder = Holder("somebody", 1000, GEOMETRY)
        at = 0
        for gap, sectors in pieces:
            start = at + gap
            end = min(start + sectors, (start // BUCKET_SECTORS + 1) * BUCKET_SECTORS)
            holder.add((0, start // BUCKET_SECTORS), start, end, 0)
            at = end
        pins: dict[tuple[int, int], int] = {}
        try:
            for group in groups:
                for bucket_id, count in holder.remove(group):
                    pins[bucket_id] = pins.get(bucket_id, 0) + count
        except NotReserved:
            outcomes.append(None)
            continue
        outcomes.append((pins, holder.total, {place: list(it) for place, it in holder.pieces.items()}))
    assert outcomes[0] == outcomes[1]
