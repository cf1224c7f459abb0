# SPDX-License-Identifier: GPL-2.0-only
"""Reservations: the sectors that a connection was given and has neither committed nor released.

Releasing part of a piece leaves the rest; releasing its middle leaves two. Reader pins are counted
separately, by bucket.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bcached.errors import LimitExceeded, NotReserved, RequestError
from bcached.keys import Key
from bcached.state.buckets.geometry import BucketId, Geometry
from bcached.state.sectors.held_ranges import HeldRanges, Removed
from bcached.state.sectors.sector_runs import SectorRun, sector_runs
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights

WHOLE_BUCKET_INODE = -1  # pieces made by AllocateBucket belong to no volume

READS_MAX = 65536


class HeldTotal:
    """How many buckets the connections of one user keep from reuse: a bucket counts for each of them."""

    def __init__(self) -> None:
        self.buckets = 0


class ExtentRequest(msgspec.Struct, frozen=True):
    """A request for sectors: the extent of the volume, and how it is to be placed.

    whole: all of them, as several keys if necessary; otherwise one key, perhaps a shorter one. moving: for
    the moving garbage collector, from its reserve.
    """

    inode: int
    offset: int
    sectors: int
    write_point: int
    replicas: int = 1
    moving: bool = False
    whole: bool = False


class Holder:
    """The reservations and reader pins of one connection; limits are the most pieces and pins it may hold.

    owner is the holder that absorbs the pieces in the end: they count towards its limit, too. Pieces and pins
    are two halves of what a connection holds, with half of the methods each; they end together. rights say
    whose connection it is, and what it may do; give_way closes it, since the user holds too many buckets.
    buckets is how many its pieces and pins keep from reuse, counted at each change, as is the user's sum.
    """

    __slots__ = (
        "buckets",
        "connection_closed",
        "geometry",
        "give_way",
        "limit",
        "name",
        "of_user",
        "owner",
        "pieces",
        "reads",
        "reads_limit",
        "reads_total",
        "rights",
        "role",
        "total",
    )

    def __init__(
        self,
        name: str,
        limit: int,
        geometry: Geometry,
        owner: "Holder | None" = None,
        reads_limit: int = READS_MAX,
        role: str = "",
        rights: VolumeRights = ALL_RIGHTS,
    ) -> None:
        self.name = name
        self.role = role  # of its peer, for the statistics
        self.rights = rights
        self.give_way: Callable[[int], None] | None = None
        self.limit = limit
        self.geometry = geometry  # of every member
        self.owner = owner
        self.connection_closed = False  # its connection is closed
        self.pieces: dict[BucketId, HeldRanges] = {}
        self.total = 0  # pieces
        self.reads_limit = reads_limit
        self.reads: Counter[BucketId] = Counter()  # reader pins
        self.reads_total = 0
        self.buckets = 0
        self.of_user: HeldTotal | None = None

    def __repr__(self) -> str:
        return f"<Holder {self.name}: {self.total} pieces, {self.reads_total} reader pins>"

    @property
    def user(self) -> int | None:
        """Whose connection it is; None if it is no connection's."""
        return self.rights.user

    @property
    def is_closed(self) -> bool:
        """Whether its connection, or its owner's, is closed."""
        return self.connection_closed if self.owner is None else self.owner.is_closed

    @property
    def room(self) -> int:
        """How many more pieces it may hold."""
        return self.limit - self.total - (0 if self.owner is None else self.owner.total)

    def check_room(self, pieces: int) -> None:
        """Raises LimitExceeded if it may not hold as many more pieces."""
        if pieces > self.room:
            raise LimitExceeded("reservations_per_connection", self.limit - self.room + pieces)

    def add(self, bucket_id: BucketId, start: int, end: int, inode: int) -> None:
        """Add a piece, sectors [start, end) of a bucket; the caller pins the bucket."""
        self.total += 1
        pieces = self.pieces.get(bucket_id)
        if pieces is None:
            pieces = self.pieces[bucket_id] = HeldRanges()
            self._keeps(bucket_id)
        elif start >= pieces.ends[-1]:  # the common case
            pieces.starts.append(start)
            pieces.ends.append(end)
            pieces.inodes.append(inode)
            return
        pieces.add(start, end, inode)

    def add_row(self, bucket_id: BucketId, bounds: list[int], inode: int) -> None:
        """Add adjacent pieces, each from one bound to the next, of a bucket it holds pieces of already."""
        assert bucket_id in self.pieces, "no piece precedes the run in its bucket"
        self.pieces[bucket_id].add_row(bounds, inode)
        self.total += len(bounds) - 1

    def remove(self, keys: Sequence[Key]) -> list[tuple[BucketId, int]]:
        """Remove the sectors of all these keys, or raise NotReserved for the first not held, with no change.

        Returns how many pins each bucket loses: 1, 0, or -1 where one piece became two.
        """
        return self.remove_runs(keys, sector_runs(keys, self.geometry.bucket_sectors))

    def remove_runs(self, keys: Sequence[Key], runs: Sequence[SectorRun]) -> list[tuple[BucketId, int]]:
        """Do what `remove` does; runs are those of the keys."""
        if len(runs) == 1:  # nearly always, and in one piece
            (run,) = runs
            bucket_id = run.device, run.bucket
            removed = self._remove(bucket_id, run.start, run.end)
            if removed is not None:
                return [(bucket_id, 1 - removed.left)]
        return [(bucket_id, 1 - removed.left) for bucket_id, removed in self._remove_all(keys, runs)]

    def check(self, keys: Sequence[Key]) -> None:
        """Raises what `remove` would raise, and changes nothing."""
        if len(keys) == 1 and len(keys[0].pointers) == 1 and self.total < self.limit:
            if not self.covers(keys[0]):
                raise NotReserved(keys[0])
            return
        self._restore_all(self._remove_all(keys, sector_runs(keys, self.geometry.bucket_sectors)))

    def _remove_all(self, keys: Sequence[Key], runs: Iterable[SectorRun]) -> list[tuple[BucketId, Removed]]:
        done: list[tuple[BucketId, Removed]] = []
        try:
            for run in runs:
                self._remove_run(keys[run.first : run.behind], run, done)
        except RequestError:
            self._restore_all(done)
            raise
        return done

    def _restore_all(self, done: list[tuple[BucketId, Removed]]) -> None:
        for bucket_id, removed in reversed(done):
            self._restore(bucket_id, removed)

    def _remove_run(self, keys: Sequence[Key], run: SectorRun, done: list[tuple[BucketId, Removed]]) -> None:
        """Remove a run at once if one piece holds all of it, else key by key; adds to done what was removed.

        Pins and pieces are the same: a piece that is cut several times from its front stays one piece.
        """
        bucket_id = run.device, run.bucket
        removed = self._remove(bucket_id, run.start, run.end)
        if removed is not None:
            done.append((bucket_id, removed))
            return
        if len(keys) == 1:
            raise NotReserved(keys[0])
        start = run.start
        for key in keys:
            removed = self._remove(bucket_id, start, start + key.sectors)
            if removed is None:
                raise NotReserved(key)
            done.append((bucket_id, removed))
            start += key.sectors

    def _remove(self, bucket_id: BucketId, start: int, end: int) -> Removed | None:
        """Remove [start, end) of a bucket; returns None if no piece holds all of it."""
        pieces = self.pieces.get(bucket_id)
        removed = None if pieces is None else pieces.remove(start, end)
        if pieces is None or removed is None:
            return None
        if not pieces.starts:
            del self.pieces[bucket_id]
            self._keeps_no_more(bucket_id)
        self.total += removed.left - 1
        if removed.left > 1 and self.total > self.limit:
            self._restore(bucket_id, removed)
            raise LimitExceeded("reservations_per_connection", self.limit + 1)
        return removed

    def _restore(self, bucket_id: BucketId, removed: Removed) -> None:
        pieces = self.pieces.get(bucket_id)
        if pieces is None:
            pieces = self.pieces[bucket_id] = HeldRanges()
            self._keeps(bucket_id)
        pieces.restore(removed)
        self.total -= removed.left - 1

    def covers(self, key: Key) -> bool:
        """Whether every sector of the key is reserved here, in each of its copies."""
        for pointer in key.pointers:
            pieces = self.pieces.get((pointer.device, self.geometry.bucket_of(pointer.sector)))
            if pieces is None or pieces.find(pointer.sector, pointer.sector + key.sectors) is None:
                return False
        return bool(key.pointers)

    def check_reads(self, pins: int) -> None:
        """Raises LimitExceeded if it may not have as many more reader pins."""
        total = self.reads_total + pins
        if total > self.reads_limit:
            raise LimitExceeded("pins_per_connection", total)

    def read(self, bucket_id: BucketId) -> None:
        """Add a reader pin."""
        pins = self.reads[bucket_id] = self.reads.get(bucket_id, 0) + 1
        if pins == 1:
            self._keeps(bucket_id)
        self.reads_total += 1

    def end_read(self, bucket_id: BucketId) -> bool:
        """Remove a reader pin; False if there is none."""
        pins = self.reads.get(bucket_id, 0)
        if not pins:
            return False
        if pins == 1:
            del self.reads[bucket_id]
            self._keeps_no_more(bucket_id)
        else:
            self.reads[bucket_id] = pins - 1
        self.reads_total -= 1
        return True

    def forget_reads(self, bucket_id: BucketId) -> int:
        """Remove all reader pins of a bucket. Returns how many there were."""
        pins = self.reads.pop(bucket_id)
        self._keeps_no_more(bucket_id)
        self.reads_total -= pins
        return pins

    def absorb(self, other: "Holder") -> None:
        """Take over all pieces of another holder."""
        assert other is not self
        for bucket_id, pieces in other.pieces.items():
            ours = self.pieces.setdefault(bucket_id, pieces)
            if ours is pieces:
                self._keeps(bucket_id)
                continue
            for piece in pieces:
                ours.add(*piece)
        self.total += other.total
        assert other.of_user is None and not other.reads, "a connection's holder is not absorbed"  # noqa: PT018
        other.pieces, other.total, other.buckets = {}, 0, 0

    def split_off(self, inode: int, bucket_ids: Sequence[BucketId]) -> "Holder":
        """Move the pieces of a volume in these buckets to a new holder. Returns that holder."""
        other = Holder(f"{self.name}, volume {inode}", self.limit, self.geometry)
        for bucket_id in bucket_ids:
            if bucket_id not in self.pieces or inode not in self.pieces[bucket_id].inodes:
                continue
            for start, end, owner in self.forget(bucket_id):
                (other if owner == inode else self).add(bucket_id, start, end, owner)
        return other

    def forget(self, bucket_id: BucketId) -> HeldRanges:
        """Remove all pieces of a bucket. Returns them."""
        pieces = self.pieces.pop(bucket_id)
        self._keeps_no_more(bucket_id)
        self.total -= len(pieces)
        return pieces

    def _keeps(self, bucket_id: BucketId) -> None:
        """The first piece or the first pin of a bucket was added."""
        if bucket_id not in self.reads or bucket_id not in self.pieces:
            self.buckets += 1
            if self.of_user is not None:
                self.of_user.buckets += 1

    def _keeps_no_more(self, bucket_id: BucketId) -> None:
        """The last piece or the last pin of a bucket was removed."""
        if bucket_id not in self.pieces and bucket_id not in self.reads:
            self.buckets -= 1
            if self.of_user is not None:
                self.of_user.buckets -= 1

    @property
    def sectors(self) -> int:
        """Sectors held, counting each copy."""
        return sum(pieces.sectors for pieces in self.pieces.values())
