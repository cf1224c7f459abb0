# SPDX-License-Identifier: GPL-2.0-only
"""For each sentence a breach is planted, and exactly that sentence is found."""

from collections.abc import Callable

import pytest

from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.open_buckets import Slot
from bcached.state.sectors.reservations import Holder
from instruments.samples.bucket_states import force_state
from instruments.samples.busy_set import BusySet
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY

Breach = Callable[[BusySet], object]


def slot_of(busy: BusySet) -> Slot:
    """The slot that has open_bucket."""
    return next(
        slot
        for slot in busy.allocator.open_buckets
        if slot.sectors_free and slot.bucket_ids == ((0, busy.open_bucket),)
    )


def pins(busy: BusySet, bucket: int, change: int) -> None:
    busy.buckets.table.pins[bucket] += change


def read_but_unheld(busy: BusySet) -> None:
    busy.second.read((0, 300))
    pins(busy, 300, 1)


def given_out_twice(busy: BusySet) -> None:
    """The second holder has what the first one holds."""
    start = busy.held_bucket * BUCKET_SECTORS
    busy.second.add((0, busy.held_bucket), start + 8, start + 16, 0)
    pins(busy, busy.held_bucket, 1)
    busy.allocator.reserved_sectors += 8


def given_out_while_open(busy: BusySet) -> None:
    """A holder has what is still to be cut."""
    start = busy.open_bucket * BUCKET_SECTORS
    busy.second.add((0, busy.open_bucket), start + 8, start + 16, 0)
    pins(busy, busy.open_bucket, 1)
    busy.allocator.reserved_sectors += 8


def given_out_elsewhere(busy: BusySet) -> None:
    """A holder's piece is booked under a bucket it does not lie in."""
    pieces = busy.first.pieces[0, busy.held_bucket]
    pieces.ends[0] += 1
    busy.allocator.reserved_sectors += 1


def reclaimed_while_held(busy: BusySet) -> None:
    busy.buckets.table.pins[busy.held_bucket] = 0
    force_state(busy.buckets.table, busy.held_bucket, State.EMPTY)


BREACHES: dict[str, tuple[Breach, list[str]]] = {
    "a pin too many": (
        lambda busy: pins(busy, busy.held_bucket, 1),
        ["member 0: bucket 17 has 2 pins, but its owners have 1"],
    ),
    "a pin of an open bucket lost": (
        lambda busy: pins(busy, busy.open_bucket, -1),
        ["member 0: bucket 16 has 2 pins, but its owners have 3"],
    ),
    "a pin that nobody knows": (
        lambda busy: pins(busy, 300, 1),
        ["member 0: bucket 300 has 1 pins, but its owners have 0"],
    ),
    "a bucket reclaimed while somebody holds it": (
        reclaimed_while_held,
        [
            "member 0: bucket 17 has 0 pins, but its owners have 1",
            "member 0: bucket 17 is EMPTY, but should be HELD",
        ],
    ),
    "a bucket held by nobody": (
        lambda busy: force_state(busy.buckets.table, 450, State.HELD),
        ["member 0: bucket 450 is HELD, but has no owner"],
    ),
    "a bucket open in no slot": (
        lambda busy: force_state(busy.buckets.table, busy.held_bucket, State.OPEN),
        ["member 0: bucket 17 is OPEN, but should be HELD"],
    ),
    "a slot's bucket that counts as closed": (
        lambda busy: force_state(busy.buckets.table, busy.open_bucket, State.HELD),
        ["member 0: bucket 16 is HELD, but should be OPEN"],
    ),
    "a quarantine that was lifted too early": (
        lambda busy: force_state(busy.buckets.table, busy.quarantined_bucket, State.HELD),
        ["member 0: bucket 18 is HELD, but should be QUARANTINE"],
    ),
    "a quarantine for nobody": (
        lambda busy: force_state(busy.buckets.table, busy.held_bucket, State.QUARANTINE),
        ["member 0: bucket 17 is QUARANTINE, but should be HELD"],
    ),
    "sectors given out twice": (
        given_out_twice,
        [f"member 0: sectors of bucket 17 are given out twice at {17 * BUCKET_SECTORS + 8}"],
    ),
    "sectors given out that are still to be cut": (
        given_out_while_open,
        [f"member 0: sectors of bucket 16 are given out twice at {16 * BUCKET_SECTORS + 8}"],
    ),
    "sectors of another bucket": (
        given_out_elsewhere,
        ["member 0: bucket 17 has extents outside its bounds"],
    ),
    "a cursor that went astray": (
        lambda busy: setattr(slot_of(busy), "sectors_free", 4),
        [f"member 0: bucket 16 is open at sector {16 * BUCKET_SECTORS + 8}, but 4 sectors of it are left"],
    ),
    "an open bucket that was invalidated": (
        lambda busy: busy.buckets.table.gens.__setitem__(busy.open_bucket, 2),
        ["member 0: bucket 16 is open with gen 1, but has gen 2"],
    ),
    "a reader that counts wrong": (
        lambda busy: setattr(busy.second, "reads_total", 7),
        ["holder second has 0 reader pins, but counts 7"],
    ),
    "a reader's pin that pins nothing": (
        lambda busy: busy.second.read((0, busy.held_bucket)),
        ["member 0: bucket 17 has 1 pins, but its owners have 2"],
    ),
    "a reader's bucket that counts as unheld": (
        read_but_unheld,
        ["member 0: bucket 300 is CLEAN, but should be HELD"],
    ),
    "a holder that counts wrong": (
        lambda busy: setattr(busy.second, "total", 7),
        ["holder second has 1 pieces, but counts 7"],
    ),
    "sectors counted wrong": (
        lambda busy: setattr(busy.allocator, "reserved_sectors", busy.allocator.reserved_sectors + 1),
        ["{reserved} sectors are reserved, but {counted} are counted"],
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_and_nothing_else(name: str) -> None:
    busy = BusySet()
    breach, sentences = BREACHES[name]
    reserved = busy.allocator.reserved_sectors
    breach(busy)
    counted = busy.allocator.reserved_sectors
    assert busy.violations() == [text.format(reserved=reserved, counted=counted) for text in sentences]


def test_a_holder_nobody_told_of_is_missed() -> None:
    busy = BusySet()
    stranger = Holder("stranger", 100, GEOMETRY)
    assert busy.carve(stranger, 5000, 16, 9) is not None
    busy.fill()
    found = busy.violations()
    assert any(text.endswith("has 1 pins, but its owners have 0") for text in found)
    assert any(text.endswith("is HELD, but has no owner") for text in found)


def test_what_a_waiting_request_gathered_is_known() -> None:
    busy = BusySet()
    assert len(busy.allocator.pending_holders) == 1
    busy.waiting.undo()
    assert busy.allocator.pending_holders == set()
    assert busy.violations() == []
