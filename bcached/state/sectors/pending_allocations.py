# SPDX-License-Identifier: GPL-2.0-only
"""Work that may have to wait for buckets: it keeps what it has gathered so far, and can be resumed.

Only the head of a queue is resumed, so only one request at a time gathers; at its deadline it gives all back.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from bcached.keys import Key
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator

T_co = TypeVar("T_co", covariant=True)


class PendingAllocation(Protocol[T_co]):
    """Something that needs buckets of a reserve."""

    @property
    def reserve(self) -> Reserve:
        """The reserve it waits for."""

    @property
    def holder(self) -> Holder | None:
        """The holder they are for; None if it is the set itself."""

    @property
    def inodes(self) -> frozenset[int]:
        """The volumes they are for."""

    @property
    def is_small(self) -> bool:
        """Whether it needs a bucket (and one for each further copy) at most."""

    @property
    def gathered(self) -> int:
        """How many pieces it has, and needs more."""

    def may_complete(self) -> bool:
        """Whether what it needs could become free: there are as many buckets without dirty or held data."""

    def advance(self) -> T_co | None:
        """Take what there is. Returns the result once that is enough, else None."""

    def undo(self) -> None:
        """Give back what was gathered."""


class AtOnce:
    """What is taken by one call, or not at all."""

    is_small = True
    gathered = 0

    def may_complete(self) -> bool:
        """Whether what it needs could become free."""
        return True

    def undo(self) -> None:
        """Nothing was gathered."""


class ExtentAllocation:
    """The sectors of one or more requests, all or nothing.

    Gathered keys have a holder of their own until they are complete: a client cannot release keys it has not
    received, and if its connection closes, no write to them can be in flight.
    """

    def __init__(self, allocator: SectorAllocator, holder: Holder, requests: Sequence[ExtentRequest]) -> None:
        self.reserve = Reserve.MOVINGGC if any(request.moving for request in requests) else Reserve.NONE
        self.holder = holder
        self._collected = Holder(f"{holder.name}, waiting", holder.limit, holder.geometry, holder)
        self._allocator = allocator
        self._requests = requests
        self._keys: list[list[Key]] = []
        self._current: list[Key] = []
        bucket_sectors = holder.geometry.bucket_sectors
        self.is_small = len(requests) == 1 and not (
            requests[0].whole and requests[0].sectors > bucket_sectors
        )

    def take_over(self, keys: Sequence[Key]) -> None:
        """Begin with keys that the holder has, one for each of the first requests; they are complete."""
        geometry = self.holder.geometry
        for key in keys:
            ended = self.holder.remove([key])
            assert all(pins == 1 for _, pins in ended), "it is not a whole piece"
            for one in key.pointers:
                bucket_id = one.device, geometry.bucket_of(one.sector)
                self._collected.add(bucket_id, one.sector, one.sector + key.sectors, key.inode)
            self._keys.append([key])

    @property
    def gathered(self) -> int:
        """How many pieces it has, and needs more."""
        return self._collected.total

    @property
    def inodes(self) -> frozenset[int]:
        """The volumes of the requests."""
        return frozenset(request.inode for request in self._requests)

    def advance(self) -> list[list[Key]] | None:
        """Gather on. Returns the keys of each request once all are there."""
        while len(self._keys) < len(self._requests):
            if not self._advance_one(self._requests[len(self._keys)]):
                self._allocator.pending_holders.add(self._collected)
                return None
            self._keys.append(self._current)
            self._current = []
        self.holder.absorb(self._collected)
        self._allocator.pending_holders.discard(self._collected)
        return self._keys

    def _advance_one(self, request: ExtentRequest) -> bool:
        given = sum(key.sectors for key in self._current)
        while given < request.sectors:
            key = self._allocator.carve(
                self._collected,
                request.inode,
                request.offset + given,
                request.sectors - given,
                request.write_point,
                request.replicas,
                request.moving,
            )
            if key is None:
                return False
            self._current.append(key)
            given += key.sectors
            if not request.whole:
                return True
        return True

    def may_complete(self) -> bool:
        """Whether the set has as many buckets without dirty or held data as it still needs."""
        wanted = sum(request.sectors * request.replicas for request in self._requests if request.whole)
        return wanted - self._collected.sectors <= self._allocator.obtainable_sectors

    def undo(self) -> None:
        """End the reservations of all keys gathered so far."""
        self._keys, self._current = [], []
        self._allocator.end(self._collected)
        self._allocator.pending_holders.discard(self._collected)


class BucketAllocation(AtOnce):
    """A whole bucket, or one on each of several members."""

    reserve = Reserve.NONE
    inodes: frozenset[int] = frozenset()

    def __init__(self, allocator: SectorAllocator, holder: Holder, replicas: int) -> None:
        self.holder = holder
        self._allocator = allocator
        self._replicas = replicas

    def advance(self) -> Key | None:
        """Returns the key of the buckets; None if they are not ready."""
        return self._allocator.take_buckets(self.holder, self._replicas)


class MetadataAllocation(AtOnce):
    """A bucket of the btree reserve, on the member with most space.

    taken is set when the bucket is taken; the waiter's future gets it a little later.
    """

    reserve = Reserve.BTREE
    holder = None
    inodes: frozenset[int] = frozenset()

    def __init__(self, allocator: SectorAllocator, state: State) -> None:
        self.taken: tuple[int, int] | None = None
        self._allocator = allocator
        self._state = state

    def advance(self) -> tuple[int, int] | None:
        """Returns (device, bucket); None if none is ready."""
        self.taken = self._allocator.take_metadata(self._state)
        return self.taken


class BucketWait(AtOnce):
    """Waits until there are buckets for what the caller does next, and takes none of them."""

    holder: Holder | None = None
    inodes: frozenset[int] = frozenset()

    def __init__(self, reserve: Reserve, suffices: Callable[[], bool]) -> None:
        self.reserve = reserve
        self._suffices = suffices

    def advance(self) -> bool | None:
        """Returns True once there are enough, else None."""
        return True if self._suffices() else None
