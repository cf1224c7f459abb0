# SPDX-License-Identifier: GPL-2.0-only
"""Which keys of clients and of the index are valid: those whose pointers have their buckets' present gens."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from bcached.errors import NotReserved, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.sector_runs import SectorRun

OPEN = int(State.OPEN)


class BucketGen(Protocol):
    """A bucket and the gen it had."""

    @property
    def device(self) -> int:
        """Number of the member."""

    @property
    def bucket(self) -> int:
        """Number of the bucket there."""

    @property
    def gen(self) -> int:
        """The gen at the time of a read."""


class KeyValidity:
    """Compares keys with the gens of their buckets, and renews the prios of those that are read."""

    def __init__(self, members: Sequence[MemberBuckets]) -> None:
        self._members = members
        self._geometry = members[0].geometry
        # Divided by inline where each key of a request passes: a call to bucket_of costs a tenth of a commit.
        self._bucket_sectors = self._geometry.bucket_sectors

    def gen_of(self, pointer: Pointer) -> int | None:
        """The present gen of a pointer's bucket; None if there is no such bucket."""
        if not 0 <= pointer.device < len(self._members):
            return None
        table = self._members[pointer.device].table
        bucket = self._geometry.bucket_of(pointer.sector)
        return table.gens[bucket] if table.first_bucket <= bucket < table.bucket_count else None

    def is_current(self, pointer: Pointer) -> bool:
        """Whether a pointer has its bucket's present gen."""
        return self.gen_of(pointer) == pointer.gen

    def check(self, key: Key) -> None:
        """Raises StaleKey unless every pointer has the present gen of a bucket of the set."""
        if not key.pointers:
            raise NotReserved(key)
        members, bucket_sectors = self._members, self._bucket_sectors
        for pointer in key.pointers:
            if pointer.device < len(members):
                table = members[pointer.device].table
                bucket = pointer.sector // bucket_sectors
                if table.first_bucket <= bucket < table.bucket_count and table.gens[bucket] == pointer.gen:
                    continue
            gen = self.gen_of(pointer)
            raise StaleKey(key, -1 if gen is None else gen)

    def check_runs(self, keys: Sequence[Key], runs: Iterable[SectorRun]) -> None:
        """Do what `check` does for all keys; runs are theirs."""
        members = self._members
        for run in runs:
            if run.device < len(members):
                table = members[run.device].table
                if (
                    table.first_bucket <= run.bucket < table.bucket_count
                    and table.gens[run.bucket] == run.gen
                ):
                    continue
            for key in keys:  # the first that is not valid is the one to be reported
                self.check(key)

    def current(self, keys: Iterable[Key], touch: bool) -> list[Key]:
        """Returns keys without their stale pointers, those with none left out; touch: renew the prios.

        1. Several copies: those that are not stale are kept. 2. One copy, nearly always: all of it inline.
        """
        members, bucket_sectors = self._members, self._bucket_sectors
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
            if pointer.device < len(members):
                table = members[pointer.device].table
                bucket = pointer.sector // bucket_sectors
                if bucket < table.bucket_count and table.gens[bucket] == pointer.gen:
                    found.append(key)
                    if touch and table.states[bucket] >= OPEN:
                        table.prios[bucket] = INITIAL_PRIO
        return found

    def has_bucket(self, one: BucketGen) -> bool:
        """Whether there is such a bucket for data."""
        if one.device >= len(self._members):
            return False
        table = self._members[one.device].table
        return table.first_bucket <= one.bucket < table.bucket_count

    def touch_buckets(self, buckets: Iterable[BucketGen]) -> None:
        """Renew the prios of buckets, except where the gen is another."""
        for one in buckets:
            table, bucket = self._members[one.device].table, one.bucket
            if table.gens[bucket] == one.gen and table.states[bucket] >= OPEN:
                table.prios[bucket] = INITIAL_PRIO

    def touch(self, keys: Iterable[Key]) -> None:
        """Renew the prios of the buckets of these keys, except where a pointer is stale."""
        for key in keys:
            for pointer in filter(self.is_current, key.pointers):
                table = self._members[pointer.device].table
                bucket = self._geometry.bucket_of(pointer.sector)
                if table.states[bucket] >= OPEN:
                    table.prios[bucket] = INITIAL_PRIO
