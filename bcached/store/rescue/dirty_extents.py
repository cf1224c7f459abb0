# SPDX-License-Identifier: GPL-2.0-only
"""The dirty extents of a volume in a set that may be damaged, each with how far it can be trusted.

They come from the merged index (newest wins), so none overlaps another in the volume. Whether two live keys
claim the same sectors of a device is decided once for the whole set, by a sort in columns.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from bcached.format.bkey import CHECK_DEVICE
from bcached.keys import OFFSET_MAX, Key, Pointer
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.key_rows import Rows
from bcached.store.check.key_check import OVERLAP
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.plain_rows import PlainRows
from bcached.store.rescue.remains.set_left import SetLeft


@dataclass(frozen=True, slots=True)
class Place:
    """The first sector of a copy on a member."""

    device: int
    sector: int


@dataclass(frozen=True, slots=True)
class DirtyExtent:
    """Sectors [offset, offset + sectors) of a volume that its backing device lacks, and their copies."""

    offset: int
    sectors: int
    confidence: Confidence
    copies: tuple[Place, ...]


def of_row(key: Key) -> tuple[Key, DirtyExtent]:
    """Returns a sure row as an extent, with its key."""
    (pointer,) = key.pointers
    copies = (Place(pointer.device, pointer.sector),)
    return key, DirtyExtent(key.offset, key.sectors, Confidence.SURE, copies)


@dataclass(slots=True)
class DirtyExtents:
    """All dirty extents of a set, leaves that had to be searched for included (node_scan.py)."""

    left: SetLeft
    _conflicting: set[int] = field(default_factory=set)  # numbers of keys
    _in_leaf: Extents = field(default_factory=Extents)
    _proven: list[NDArray[np.bool_]] = field(default_factory=list)  # by member: buckets whose gen is certain

    @classmethod
    def of(cls, left: SetLeft) -> "DirtyExtents":
        """Returns the extents, after comparing what all keys claim."""
        extents = cls(left, _proven=[census.gens_known.copy() for census in left.checked.censuses])
        tree = left.checked.tree
        if tree is not None:
            # The check has compared them already, but for those of leaves found later.
            old_from = left.old_keys.first_number if left.old_keys is not None else tree.rows.key_count
            if left.checked.findings.counts[OVERLAP] or left.found_leaves:
                for device in range(len(left.members)):
                    extents._conflicting |= _overlapping(left, device, old_from)
            # Old keys of lost leaves that claim what another one has do not make that one doubtful.
            if left.old_keys is not None:
                for device in range(len(left.members)):
                    claimed = _overlapping(left, device, tree.rows.key_count)
                    extents._conflicting |= {number for number in claimed if number >= old_from}
            for key in tree.superseded:
                extents._in_leaf.insert(key)
            if not all(known.all() for known in extents._proven):
                extents._prove_gens()
        return extents

    def _prove_gens(self) -> None:
        """Take the gens of buckets with sure dirty data as certain: such a bucket was not reused since.

        1. Of what is sure in columns. 2. Of the others, which what was proven may have made sure.
        """
        are_others = False
        for rows, others in self._in_columns():
            are_others |= bool(others.dirty.any())
            for device, census in enumerate(self.left.checked.censuses):
                here = rows.first_sectors[rows.dirty & (rows.devices == device)]
                self._proven[device][census.geometry.buckets_of(here)] = True
        for _, others in self._in_columns() if are_others else ():
            for extent in self._extents(others.where(others.dirty)):
                if extent.confidence == Confidence.SURE:
                    for place in extent.copies:
                        census = self.left.checked.censuses[place.device]
                        self._proven[place.device][census.geometry.bucket_of(place.sector)] = True

    def _in_columns(self) -> Iterator[tuple[Rows, Rows]]:
        """Yields the rows of all keys in parts: those that are sure in columns, and the others."""
        tree = self.left.checked.tree
        plain_rows = self._plain_rows()
        for chunk in tree.rows.chunks() if tree is not None else ():
            rows = chunk.where(chunk.devices != CHECK_DEVICE)
            plain = plain_rows.of(rows)
            yield rows.where(plain), rows.where(~plain)

    def inodes(self) -> list[int]:
        """Returns the inodes that have dirty extents."""
        tree = self.left.checked.tree
        chunks = tree.rows.chunks() if tree is not None else ()
        return sorted({inode for rows in chunks for inode in np.unique(rows.inodes[rows.dirty]).tolist()})

    def of_inode(self, inode: int) -> Iterator[DirtyExtent]:
        """Yields the dirty extents of an inode, in order; behind them those of lost parts of the index."""
        for rows in self._rows_of(inode):
            yield from self._extents(rows)

    def in_columns(self, inode: int) -> Iterator[tuple[Rows, Iterator[DirtyExtent]]]:
        """Yields the same in parts, to be counted: rows that are sure, each an extent; and the others."""
        plain_rows = self._plain_rows()
        for rows in self._rows_of(inode):
            plain = plain_rows.of(rows)
            yield rows.where(plain), self._extents(rows.where(~plain))

    def _rows_of(self, inode: int) -> Iterator[Rows]:
        tree = self.left.checked.tree
        if tree is not None:
            for rows in tree.rows.chunks():
                yield rows.where(rows.dirty & (rows.inodes == inode) & (rows.devices != CHECK_DEVICE))

    def _extents(self, rows: Rows) -> Iterator[DirtyExtent]:
        numbered = zip(rows.keys.tolist(), rows, strict=True)
        for number, copies in groupby(numbered, key=itemgetter(0)):
            yield from self._parts(number, [key for _, key in copies])

    def of_all(self) -> Iterator[tuple[Rows, Iterator[tuple[Key, DirtyExtent]]]]:
        """Yields all keys, clean ones, too, in parts: rows that are sure, and the others in pieces.

        Each of these is yielded with its key, which names its first copy. Of a stale clean key there is none.
        """
        for plain, others in self._in_columns():
            yield plain, self._others(others)

    def are_proven(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether the gen of each row's bucket is certain."""
        certain = np.zeros(len(rows), bool)
        for device, census in enumerate(self.left.checked.censuses):
            here = np.flatnonzero(rows.devices == device)
            certain[here] = self._proven[device][census.geometry.buckets_of(rows.first_sectors[here])]
        return certain

    def _others(self, rows: Rows) -> Iterator[tuple[Key, DirtyExtent]]:
        numbered = zip(rows.keys.tolist(), rows, strict=True)
        for number, rest in groupby(numbered, key=itemgetter(0)):
            copies = [key for _, key in rest]
            if copies[0].dirty or any(self._is_live(key.pointers[0]) for key in copies):
                for part in self._parts(number, copies):
                    yield copies[0], part

    def _plain_rows(self) -> PlainRows:
        return PlainRows.for_set(self.left, self._proven, self._conflicting)

    def is_proven(self, place: Place) -> bool:
        """Whether the gen of a bucket is certain, so that clean data in it is what its key names, too."""
        bucket = self.left.checked.censuses[place.device].geometry.bucket_of(place.sector)
        return bool(self._proven[place.device][bucket])

    def _is_live(self, pointer: Pointer) -> bool:
        return self.left.checked.staleness(pointer) == 0

    def _parts(self, number: int, copies: Sequence[Key]) -> Iterator[DirtyExtent]:
        """Yields a key's parts. 1. Only stale copies. 2. Claimed by others, too. 3. All others."""
        live = [key for key in copies if self._is_live(key.pointers[0])]
        first = (live or copies)[0]
        if not live:
            in_use = any(self._is_in_use(key.pointers[0]) for key in copies)
            confidence = Confidence.CONFLICTING if in_use else Confidence.NEWEST
            parts = [(first.offset, first.end, confidence)]
        elif number in self._conflicting or any(self._is_metadata(key.pointers[0]) for key in live):
            parts = [(first.offset, first.end, Confidence.CONFLICTING)]
        else:
            pointer = first.pointers[0]
            known = self._proven[pointer.device][self._bucket(pointer)]
            parts = self.left.doubts.parts_of(first, pointer, gen_is_known=bool(known), in_leaf=self._in_leaf)
        for start, end, confidence in parts:
            places = tuple(
                Place(key.pointers[0].device, key.pointers[0].sector + start - first.offset)
                for key in (live or copies)
            )
            yield DirtyExtent(start, end - start, confidence, places)

    def _is_in_use(self, pointer: Pointer) -> bool:
        """Whether a bucket holds anything with a newer gen."""
        census, bucket = self._census(pointer), self._bucket(pointer)
        return bool(census.sectors[bucket]) or census.uses[bucket] not in {Use.FREE, Use.DATA}

    def _is_metadata(self, pointer: Pointer) -> bool:
        return self._census(pointer).uses[self._bucket(pointer)] not in {Use.FREE, Use.DATA}

    def _census(self, pointer: Pointer) -> Census:
        return self.left.checked.censuses[pointer.device]

    def _bucket(self, pointer: Pointer) -> int:
        return self._census(pointer).geometry.bucket_of(pointer.sector)


def _overlapping(left: SetLeft, device: int, behind: int) -> set[int]:
    """Returns the numbers below behind of live keys that share a sector of a member with another such key."""
    tree, census = left.checked.tree, left.checked.censuses[device]
    assert tree is not None
    columns = [
        _live_columns(rows.where((rows.devices == device) & (rows.keys < behind)), census)
        for rows in tree.rows.chunks()
    ]
    if not columns:
        return set()
    firsts, ends, keys = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(firsts, kind="stable")
    firsts, ends, keys = firsts[order], ends[order], keys[order]
    if len(firsts) < 2:
        return set()
    reached = np.maximum.accumulate(ends)[:-1]  # by all before
    overlaps_before = np.concatenate([[False], firsts[1:] < reached])
    overlaps_behind = np.concatenate([ends[:-1] > firsts[1:], [False]])
    return set(keys[overlaps_before | overlaps_behind].tolist())


def _live_columns(rows: Rows, census: Census) -> tuple[NDArray[np.int64], ...]:
    buckets = census.geometry.buckets_of(rows.first_sectors)
    live = rows.where(census.behind(buckets, rows.gens) == 0)
    return live.first_sectors, live.first_sectors + live.sectors, live.keys


@dataclass(slots=True)
class Totals:
    """Extents and sectors of each confidence."""

    extents: Counter[Confidence] = field(default_factory=Counter)
    sectors: Counter[Confidence] = field(default_factory=Counter)
    start: int = OFFSET_MAX  # of the first extent
    end: int = 0  # of the last extent

    def add_rows(self, rows: Rows, confidence: Confidence) -> None:
        """Count rows, each an extent."""
        if len(rows):
            self.extents[confidence] += len(rows)
            self.sectors[confidence] += int(rows.sectors.sum())
            self.start = min(self.start, int((rows.ends - rows.sectors).min()))
            self.end = max(self.end, int(rows.ends.max()))

    def add(self, extent: DirtyExtent, sectors: int) -> None:
        """Count an extent, and so many sectors of it."""
        self.extents[extent.confidence] += 1
        self.sectors[extent.confidence] += sectors
        self.start = min(self.start, extent.offset)
        self.end = max(self.end, extent.offset + extent.sectors)
