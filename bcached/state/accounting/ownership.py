# SPDX-License-Identifier: GPL-2.0-only
"""What open buckets, holders and readers own in total, compared with each bucket's state and pins.

A part of the invariants: every sector is given out once only, and its bucket is pinned meanwhile.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import BucketId
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator

PINNED = (State.OPEN, State.HELD, State.QUARANTINE)


class Ownership:
    """Extents and pins of every bucket with an owner, at one instant."""

    def __init__(self, allocator: SectorAllocator, holders: Sequence[Holder]) -> None:
        self._allocator = allocator
        self._holders = holders
        self._bucket_sectors = allocator.members[0].geometry.bucket_sectors
        self._slots: dict[BucketId, tuple[int, int, int]] = {}  # next sector, sectors free, gen
        self._pins: Counter[BucketId] = Counter()
        self._extents: dict[BucketId, list[tuple[int, int]]] = {}
        for slot in allocator.open_buckets:
            if slot.sectors_free:
                for bucket_id, sector, gen in zip(slot.bucket_ids, slot.sectors, slot.gens, strict=True):
                    self._slots[bucket_id] = sector, slot.sectors_free, gen
                    self._note(bucket_id, [(sector, sector + slot.sectors_free)])
        for holder in holders:
            for bucket_id, pieces in holder.pieces.items():
                self._note(bucket_id, [(start, end) for start, end, _ in pieces])
            self._pins.update(holder.reads)

    def _note(self, bucket_id: BucketId, extents: list[tuple[int, int]]) -> None:
        self._pins[bucket_id] += len(extents)
        self._extents.setdefault(bucket_id, []).extend(extents)

    def of_the_set(self) -> Iterator[str]:
        """Violations that concern all members together."""
        for holder in self._holders:
            pieces = sum(map(len, holder.pieces.values()))
            if holder.total != pieces:
                yield f"holder {holder.name} has {pieces} pieces, but counts {holder.total}"
            reads = sum(holder.reads.values())
            if holder.reads_total != reads or min(holder.reads.values(), default=1) < 1:
                yield f"holder {holder.name} has {reads} reader pins, but counts {holder.reads_total}"
            kept = len(holder.pieces.keys() | holder.reads.keys())
            if holder.buckets != kept:
                yield f"holder {holder.name} keeps {kept} buckets, but counts {holder.buckets}"
        reserved = sum(holder.sectors for holder in self._holders)
        if reserved != self._allocator.reserved_sectors:
            yield f"{reserved} sectors are reserved, but {self._allocator.reserved_sectors} are counted"

    def of_a_member(self, member: MemberBuckets) -> Iterator[str]:
        """Violations in the buckets of one member."""
        yield from self._check_pins(member)
        yield from self._check_states(member)
        yield from self._check_extents(member)

    def _check_pins(self, member: MemberBuckets) -> Iterator[str]:
        table, device = member.table, member.device
        pinned = set(np.flatnonzero(table.pins_array).tolist())
        known = {bucket for pinned_on, bucket in self._pins if pinned_on == device}
        for bucket in sorted(pinned | known):
            pins = self._pins[device, bucket]
            if table.pins[bucket] != pins:
                yield f"bucket {bucket} has {table.pins[bucket]} pins, but its owners have {pins}"

    def _check_states(self, member: MemberBuckets) -> Iterator[str]:
        """A bucket is open if a slot has it, else quarantined or held if a holder has it."""
        table, device = member.table, member.device
        stand = set(np.flatnonzero(np.isin(table.states_array, PINNED)).tolist())
        known = {bucket for pinned_on, bucket in self._pins if pinned_on == device}
        for bucket in sorted(stand | known):
            expected = self._expected_state((device, bucket))
            state = State(table.states[bucket])
            if expected is None:
                yield f"bucket {bucket} is {state.name}, but has no owner"
            elif state != expected:
                yield f"bucket {bucket} is {state.name}, but should be {expected.name}"

    def _expected_state(self, bucket_id: BucketId) -> State | None:
        if bucket_id in self._slots:
            return State.OPEN
        if not self._pins[bucket_id]:
            return None
        return State.QUARANTINE if bucket_id in self._allocator.pins.quarantined else State.HELD

    def _check_extents(self, member: MemberBuckets) -> Iterator[str]:
        for (device, bucket), extents in self._extents.items():
            if device != member.device:
                continue
            first = member.geometry.sector_of(bucket)
            extents.sort()
            for (_, end), (start, _) in pairwise(extents):
                if start < end:
                    yield f"sectors of bucket {bucket} are given out twice at {start}"
            if extents[0][0] < first or extents[-1][1] > first + self._bucket_sectors:
                yield f"bucket {bucket} has extents outside its bounds"
        for (device, bucket), (sector, sectors_free, gen) in self._slots.items():
            if device != member.device:
                continue
            if sector + sectors_free != member.geometry.sector_of(bucket + 1):
                yield f"bucket {bucket} is open at sector {sector}, but {sectors_free} sectors of it are left"
            if gen != member.table.gens[bucket]:
                yield f"bucket {bucket} is open with gen {gen}, but has gen {member.table.gens[bucket]}"
