# SPDX-License-Identifier: GPL-2.0-only
"""Cuts sectors for connections out of open buckets, and takes them back (kernel: bch_alloc_sectors).

Every piece pins its bucket. When a bucket's last sectors are cut, the open bucket's own pin passes to that
piece; from then on the bucket is kept as long as a connection holds a piece of it, or live data is in it.
Readers pin buckets, too, for as long as the keys they got must stay valid.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from uuid import UUID

from bcached.errors import NoSuchVolume, NotReserved, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO, BucketId
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.placement import members_with, take_data_buckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.open_buckets import Extent, OpenBuckets, Slot
from bcached.state.sectors.reservations import WHOLE_BUCKET_INODE, Holder

EndedPins = list[tuple[BucketId, int]]  # how many pins each bucket loses: 1, 0, or -1 (Holder.remove)
BUCKETS_A_SLICE = 256  # buckets per slice: a millisecond
OPEN = int(State.OPEN)


class SectorAllocator:
    """The open buckets of a set, and what connections hold of them.

    inodes has the uuid of each volume, flash_sectors the size of the flash-only ones, which are never clean.
    clock returns seconds; only differences count.
    """

    def __init__(self, caches: Sequence[MemberBuckets], clock: Callable[[], float] = lambda: 0.0) -> None:
        geometry = caches[0].geometry
        self.caches = caches
        self.open_buckets = OpenBuckets(geometry)
        self.inodes: dict[int, UUID] = {}
        self.flash_sectors: dict[int, int] = {}
        self.pending_holders: set[Holder] = set()  # of requests that wait for more buckets
        self.allocated_sectors = 0
        self.reserved_sectors = 0  # counting each copy
        self.buckets_taken = 0  # from the reserves
        self.quarantined: Counter[BucketId] = Counter()  # holders in quarantine by bucket
        self.sharing = False  # without a bucket a request gets sectors of any open one (closing.py)
        self._clock = clock
        self._pins = [cache.table.pins for cache in caches]
        self._geometry = geometry  # of every member

    # Cutting

    def carve(
        self,
        holder: Holder,
        inode: int,
        offset: int,
        sectors: int,
        write_point: int,
        replicas: int = 1,
        moving: bool = False,
        may_refill: bool = True,
    ) -> Key | None:
        """Returns a key for an extent, perhaps a shorter one; None if it takes a bucket and none is ready.

        may_refill false: it may not take a bucket, since others wait for one. Raises NoSuchVolume,
        LimitExceeded.
        """
        if inode not in self.inodes:
            raise NoSuchVolume(inode)
        if holder.total + replicas > holder.limit or holder.owner is not None:
            holder.check_room(replicas)
        kind = replicas * 2 + (inode in self.flash_sectors)
        slot = self.open_buckets.choose(kind, inode, offset, write_point)
        if slot.sectors_free == 0 or slot.kind != kind:
            reserve = Reserve.MOVINGGC if moving else Reserve.NONE
            if not may_refill or not self._refill(slot, kind, reserve, replicas):
                shared = self.open_buckets.shared(kind) if self.sharing and not moving else None
                if shared is None:
                    return None
                slot = shared
        given, pointers = self.open_buckets.carve(slot, inode, offset, sectors, write_point)
        slot.holder, slot.used_at = holder, self._clock()
        self.allocated_sectors += given
        self.reserved_sectors += given * replicas
        for copy, bucket_id in enumerate(slot.bucket_ids):  # a strict zip costs a tenth of all this
            sector = pointers[copy].sector
            holder.add(bucket_id, sector, sector + given, inode)
            if slot.sectors_free:
                device, bucket = bucket_id
                self._pins[device][bucket] += 1
            else:  # the open bucket's own pin passes to this piece
                self._settle(bucket_id)
        return Key(inode, offset, given, kind % 2 == 1, pointers)

    def carve_run(
        self, holder: Holder, extents: Sequence[Extent], at: int, write_point: int, may_refill: bool = True
    ) -> list[Key]:
        """Returns the keys of extents[at] and of all that follow in its bucket; none if no bucket is ready.

        The result is that of `carve` for each, at a third of the cost for all but the first.
        """
        first = extents[at]
        inode = first.inode
        key = self.carve(holder, inode, first.offset, first.sectors, write_point, may_refill=may_refill)
        if key is None:
            return []
        slot = self.open_buckets.newest
        if not slot.sectors_free:
            return [key]
        following = islice(extents, at + 1, at + 1 + holder.room)
        keys, bounds = self.open_buckets.carve_on(slot, inode, following, write_point)
        if keys:
            ((device, bucket),) = slot.bucket_ids
            holder.add_row((device, bucket), bounds, inode)
            self._pins[device][bucket] += len(keys)
            given = bounds[-1] - bounds[0]
            self.allocated_sectors += given
            self.reserved_sectors += given
        return [key, *keys]

    def take_buckets(self, holder: Holder, replicas: int) -> Key | None:
        """Returns whole buckets, one per copy, as one key of no volume; None if they are not ready."""
        holder.check_room(replicas)
        pointers = take_data_buckets(self.caches, Reserve.NONE, replicas)
        if pointers is None:
            return None
        self.buckets_taken += replicas
        geometry = self._geometry
        bucket_sectors = geometry.bucket_sectors
        self.allocated_sectors += bucket_sectors
        self.reserved_sectors += bucket_sectors * replicas
        for pointer in pointers:
            bucket = geometry.bucket_of(pointer.sector)
            end = pointer.sector + bucket_sectors
            holder.add((pointer.device, bucket), pointer.sector, end, WHOLE_BUCKET_INODE)
            self.caches[pointer.device].table.move(bucket, State.HELD)
        return Key(0, 0, bucket_sectors, False, pointers)

    def take_metadata(self, state: State) -> tuple[int, int] | None:
        """Returns (device, bucket) of a new metadata bucket, placed like data; None if none is ready."""
        members = members_with(self.caches, Reserve.BTREE, 1)
        if members is None:
            return None
        bucket = members[0].take_metadata(state)
        assert bucket is not None
        self.buckets_taken += 1
        return members[0].device, bucket

    def _refill(self, slot: Slot, kind: int, reserve: Reserve, replicas: int) -> bool:
        pointers = take_data_buckets(self.caches, reserve, replicas)
        if pointers is None:
            return False
        self.buckets_taken += replicas
        if slot.sectors_free:
            self.close(slot)
        self.open_buckets.refill(slot, kind, pointers)
        return True

    def close(self, slot: Slot) -> None:
        """Give up the sectors left of a slot's buckets; pins and live data give each bucket's new state."""
        for device, bucket in self.open_buckets.close(slot):
            self._pins[device][bucket] -= 1
            self._settle((device, bucket))

    # Giving back

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End the reservations of all these keys, or raise StaleKey or NotReserved and change nothing."""
        self.drop_pins(self.end_reservations(holder, keys))

    def check_commit(self, holder: Holder, keys: Sequence[Key]) -> None:
        """Raises StaleKey, NotReserved or LimitExceeded if the holder cannot commit these keys."""
        for key in keys:
            self.check_current(key)
        holder.check(keys)

    def end_reservations(self, holder: Holder, keys: Sequence[Key]) -> EndedPins:
        """End the reservations of these keys, or raise what check_commit does and change nothing.

        Returns the pins that end, for `drop_pins`. Until then the buckets stay pinned: a commit puts the keys
        into the index in between, since a bucket that loses its last pin first would be empty, and retired.
        """
        for key in keys:
            self.check_current(key)
        ended = holder.remove(keys)
        for key in keys:
            self.reserved_sectors -= key.sectors * len(key.pointers)
        return ended

    def drop_pins(self, ended: EndedPins) -> None:
        """Drop the pins of reservations that were ended; those of one bucket at once, in one run of them."""
        if not ended:
            return
        last, count = ended[0][0], 0
        for bucket_id, pins in ended:
            if bucket_id != last:
                self._drop_pins(last, count)
                last, count = bucket_id, 0
            count += pins
        self._drop_pins(last, count)

    def free_buckets(self, holder: Holder, key: Key) -> None:
        """End the reservation of whole buckets; NotReserved if any part was released or committed."""
        if key.sectors != self._geometry.bucket_sectors or not holder.covers(key):
            raise NotReserved(key)
        self.release(holder, [key])

    def check_current(self, key: Key) -> None:
        """Raises StaleKey unless every pointer has the present gen of a bucket of the set."""
        if not key.pointers:
            raise NotReserved(key)
        for pointer in key.pointers:
            gen = self.gen_of(pointer)
            if gen != pointer.gen:
                raise StaleKey(key, -1 if gen is None else gen)

    def is_current(self, pointer: Pointer) -> bool:
        """Whether a pointer has its bucket's present gen."""
        return self.gen_of(pointer) == pointer.gen

    def gen_of(self, pointer: Pointer) -> int | None:
        """The present gen of a pointer's bucket; None if there is no such bucket."""
        if not 0 <= pointer.device < len(self.caches):
            return None
        table = self.caches[pointer.device].table
        bucket = self._geometry.bucket_of(pointer.sector)
        return table.gens[bucket] if table.first_bucket <= bucket < table.bucket_count else None

    # Readers

    def current(self, keys: Iterable[Key], touch: bool) -> list[Key]:
        """Returns keys without their stale pointers, those with none left out; touch: renew the prios."""
        caches, bucket_sectors = self.caches, self._geometry.bucket_sectors
        found: list[Key] = []
        for key in keys:
            if len(key.pointers) != 1:
                pointers = tuple(filter(self.is_current, key.pointers))
                if pointers:
                    found.append(Key(key.inode, key.offset, key.sectors, key.dirty, pointers))
                    if touch:
                        self.touch(found[-1:])
                continue
            (pointer,) = key.pointers
            if pointer.device < len(caches):
                table = caches[pointer.device].table
                bucket = pointer.sector // bucket_sectors  # inline: look-ups do it for every key
                if bucket < table.bucket_count and table.gens[bucket] == pointer.gen:
                    found.append(key)
                    if touch and table.states[bucket] >= OPEN:
                        table.prios[bucket] = INITIAL_PRIO
        return found

    def touch(self, keys: Iterable[Key]) -> None:
        """Renew the prios of the buckets of these keys, except where a pointer is stale."""
        for key in keys:
            for pointer in key.pointers:
                if self.is_current(pointer):
                    table = self.caches[pointer.device].table
                    bucket = self._geometry.bucket_of(pointer.sector)
                    if table.states[bucket] >= State.OPEN:
                        table.prios[bucket] = INITIAL_PRIO

    def pin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """Keep the buckets of keys of the index from reuse until `unpin`; on an error none is pinned.

        Raises StaleKey, LimitExceeded.
        """
        holder.check_reads(sum(len(key.pointers) for key in keys))
        for key in keys:
            self.check_current(key)
        for key in keys:
            for bucket_id in self._bucket_ids(key):
                holder.read(bucket_id)
                self._add_pin(bucket_id)

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End one pin for each pointer of these keys, or raise NotReserved and change nothing."""
        ended: list[BucketId] = []
        for key in keys:
            for pointer, bucket_id in zip(key.pointers, self._bucket_ids(key), strict=True):
                if not self.is_current(pointer) or not holder.end_read(bucket_id):
                    for again in ended:
                        holder.read(again)
                    raise NotReserved(key)
                ended.append(bucket_id)
        for bucket_id in ended:
            self._drop_pins(bucket_id, 1)

    def end_reads(self, holder: Holder) -> None:
        """End all pins of a reader."""
        for _ in self.ending_reads(holder):
            pass

    def ending_reads(self, holder: Holder) -> Generator[None, None, None]:
        """End all pins of a reader, in steps."""
        for number, bucket_id in enumerate(list(holder.reads), 1):
            self._drop_pins(bucket_id, holder.forget_reads(bucket_id))
            if number % BUCKETS_A_SLICE == 0:
                yield

    def _bucket_ids(self, key: Key) -> list[BucketId]:
        bucket_of = self._geometry.bucket_of
        return [(pointer.device, bucket_of(pointer.sector)) for pointer in key.pointers]

    def _add_pin(self, bucket_id: BucketId) -> None:
        """Pin a bucket with data."""
        device, bucket = bucket_id
        table = self.caches[device].table
        assert table.states[bucket] >= State.OPEN, f"pin on bucket {bucket}, which holds no data"
        table.pins[bucket] += 1
        if table.states[bucket] >= State.DIRTY:
            self._settle(bucket_id)

    # Everything at once

    def end(self, holder: Holder) -> None:
        """End everything a holder has."""
        for _ in self.ending(holder):
            pass

    def ending(self, holder: Holder) -> Generator[None, None, None]:
        """End everything a holder has, which can be a great many buckets, in steps."""
        yield from self.ending_reads(holder)
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            self._end_in(bucket_id, holder)
            if number % BUCKETS_A_SLICE == 0:
                yield

    def _end_in(self, bucket_id: BucketId, holder: Holder) -> None:
        pieces = holder.forget(bucket_id)
        self.reserved_sectors -= pieces.sectors
        self._drop_pins(bucket_id, len(pieces))

    # Broken connections

    def quarantine(self, holder: Holder) -> Generator[None, None, None]:
        """Quarantine the buckets of a holder whose writes may still be in flight, in steps.

        Reads that are still in flight do no harm, so its reader pins end.
        """
        yield from self.ending_reads(holder)
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            self.quarantined[bucket_id] += 1
            if self._state(bucket_id) == State.HELD:
                self._settle(bucket_id)
            if number % BUCKETS_A_SLICE == 0:
                yield

    def end_quarantine(self, holder: Holder) -> Generator[None, None, None]:
        """End everything a quarantined holder has, in steps: no write of it can be in flight any more."""
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            assert self.quarantined[bucket_id] > 0, (
                "a quarantined holder has a bucket that is not in quarantine"
            )
            self.quarantined[bucket_id] -= 1
            if not self.quarantined[bucket_id]:
                del self.quarantined[bucket_id]
            self._end_in(bucket_id, holder)
            if self._state(bucket_id) == State.QUARANTINE:  # held by others too
                self._settle(bucket_id)
            if number % BUCKETS_A_SLICE == 0:
                yield

    def _state(self, bucket_id: BucketId) -> int:
        device, bucket = bucket_id
        return self.caches[device].table.states[bucket]

    def _drop_pins(self, bucket_id: BucketId, count: int) -> None:
        """Drop pins. Only the last changes the state; an open bucket has a pin of its own."""
        device, bucket = bucket_id
        pins = self._pins[device]
        left = pins[bucket] - count
        pins[bucket] = left
        if not left:
            self._settle(bucket_id)

    def _settle(self, bucket_id: BucketId) -> None:
        """Set the state of a bucket that is not (or no longer) open."""
        device, bucket = bucket_id
        cache = self.caches[device]
        if bucket_id in self.quarantined and cache.table.pins[bucket]:
            if cache.table.states[bucket] != State.QUARANTINE:
                cache.table.move(bucket, State.QUARANTINE)
        else:
            cache.settle(bucket)
