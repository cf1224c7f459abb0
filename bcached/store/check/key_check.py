# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a whole index, once all are merged: which are live, and which are wrong.

What keeps a set from being opened is not judged here, but by the rules shared with an opening
(bucket_checks.py). A pointer ahead of its bucket's gen on disk raises it, so there are two passes: one for
the gens, one to judge. What is counted is in accounting/check_counts.py (Census).
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from bcached.format.uuid_entry import UuidEntry
from bcached.keys import Key
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.index.keys.key_rows import CHUNK_ROWS, KeyRows, Rows
from bcached.store.finding import FINDINGS_OF_A_RULE_MAX, Finding, Report, Severity
from bcached.store.membership import MemberFound

STRUCTURE = "key"
OVERLAP = "key-overlap"


@dataclass(slots=True)
class VolumeSectors:
    """The live keys of one inode."""

    keys: int = 0
    dirty_sectors: int = 0
    clean_sectors: int = 0


@dataclass(slots=True)
class KeyTotals:
    """The sums over the whole index."""

    keys: int = 0
    live_keys: int = 0
    volumes: dict[int, VolumeSectors] = field(default_factory=dict)

    @property
    def dirty_sectors(self) -> int:
        """Live sectors that are the only good copy of their data."""
        return sum(volume.dirty_sectors for volume in self.volumes.values())

    @property
    def clean_sectors(self) -> int:
        """Live sectors that could be read from elsewhere, too."""
        return sum(volume.clean_sectors for volume in self.volumes.values())


class KeyCheck:
    """Judges all rows of an index."""

    def __init__(
        self, members: Sequence[MemberFound], censuses: Sequence[Census], rows: KeyRows, report: Report
    ) -> None:
        self._members = members
        self._censuses = censuses
        self._rows = rows
        self._superseded = KeyRows()
        self._node_keys = KeyRows()
        self._report = report

    def add_superseded(self, key: Key) -> None:
        """Add a key that is on disk but superseded by one of the journal's.

        It holds no data, but its bucket has had its gen, and may not have it again. With that gen the bucket
        is one for data (kernel: marks the key before the journal's is inserted).
        """
        self._superseded.add_key(key)

    def add_node_key(self, key: Key) -> None:
        """Add a key of an interior node, which names only a gen."""
        self._node_keys.add_key(key)

    def raise_gens(self) -> None:
        """Raise every bucket's gen to the newest of its pointers; afterwards staleness can be judged."""
        for rows in chain(self._rows.chunks(), self._superseded.chunks(), self._node_keys.chunks()):
            for census, _, of_member in self._by_member(rows):
                census.raise_gens(_buckets(census, of_member), of_member.gens)

    def judge(self) -> KeyTotals:
        """Count all keys, and report those that are wrong. Returns the sums."""
        totals = KeyTotals(keys=self._rows.key_count)
        extents = [array("q") for _ in self._members]  # grows without a copy
        for rows in self._rows.chunks():
            live = np.zeros(len(rows), bool)
            for census, chosen, of_member in self._by_member(rows):
                buckets = _buckets(census, of_member)
                behind = census.behind(buckets, of_member.gens)
                census.count(buckets, behind, of_member.sectors, of_member.dirty)
                live[chosen] = behind == 0
                self._report_stale(of_member, behind)
                free = buckets[(behind == 0) & (census.uses[buckets] == Use.FREE)]
                census.uses[free] = Use.DATA
                device = int(of_member.devices[0])
                extents[device].frombytes(_packed_extents(of_member.where(behind == 0)).tobytes())
            _add_up(totals, rows.where(live))
        self._remember_superseded()
        for device, packed in enumerate(extents):
            self._report_overlaps(device, packed)
        return totals

    def _remember_superseded(self) -> None:
        for keys in (self._superseded, self._node_keys):
            for rows in keys.chunks():
                for census, _, of_member in self._by_member(rows):
                    buckets = _buckets(census, of_member)
                    behind = census.behind(buckets, of_member.gens)
                    census.remember(buckets, behind)

    def _by_member(self, rows: Rows) -> Iterator[tuple[Census, NDArray[np.bool_], Rows]]:
        """Yields the rows that point to each member; placeholders point to none."""
        for device, census in enumerate(self._censuses):
            chosen = rows.devices == device
            if chosen.any():
                yield census, chosen, rows.where(chosen)

    def _report_stale(self, rows: Rows, behind: NDArray[np.uint8]) -> None:
        for key in rows.where((behind > 0) & rows.dirty):
            problem = "the key is dirty and stale: its bucket was invalidated and may hold other data"
            lost = f"{key.sectors} dirty sectors"
            self._report(
                Finding("key-stale-dirty", Severity.DAMAGE, STRUCTURE, self._where(key), problem, lost)
            )

    def _report_overlaps(self, device: int, packed: "array[int]") -> None:
        """Report live keys that share a sector of the device. Sorts their packed extents."""
        extents: NDArray[np.int64] = np.frombuffer(packed, np.int64)
        extents.sort()
        for sector in islice(_overlapping(extents), FINDINGS_OF_A_RULE_MAX):
            keys = [
                key for key in self._keys_at(device, sector) if key.pointers[0].sector <= sector < _end(key)
            ]
            named = " and ".join(f"{key.inode}:{key.offset} ({_kind(key)})" for key in keys[:3])
            lost = f"{min(key.sectors for key in keys)} sectors of one of them" if keys else ""
            problem = f"more than one live key has these sectors: {named}"
            where = f"{self._members[device].path} sector {sector}"
            self._report(Finding(OVERLAP, Severity.DAMAGE, STRUCTURE, where, problem, lost))

    def _keys_at(self, device: int, sector: int) -> Iterator[Key]:
        for rows in self._rows.chunks():
            firsts, ends = rows.first_sectors, rows.first_sectors + rows.sectors
            covers = (rows.devices == device) & (firsts <= sector) & (sector < ends)
            if covers.any():
                chosen = rows.where(covers)
                census = self._censuses[device]
                yield from chosen.where(census.behind(_buckets(census, chosen), chosen.gens) == 0)

    def _where(self, key: Key) -> str:
        pointer = key.pointers[0]
        path = self._members[pointer.device].path
        return f"inode {key.inode} sector {key.offset}, {path} sector {pointer.sector}"


def report_unknown_volumes(
    totals: KeyTotals, volumes: Sequence[UuidEntry | None], where: str, report: Report
) -> None:
    """Report keys of an inode that has no volume, and volumes of which a repair gave up dirty data."""
    for slot, mark in enumerate(volumes):
        if mark is not None and mark.given_up is not None:
            problem = f"on {_day(mark.invalidated)} a repair gave up dirty data of volume {mark.given_up}"
            report(Finding("volume-given-up", Severity.NOTE, "uuid table", f"{where}, slot {slot}", problem))
    for inode, held in sorted(totals.volumes.items()):
        entry = volumes[inode] if inode < len(volumes) else None
        what = f"{held.keys} live keys of {held.dirty_sectors + held.clean_sectors} sectors"
        if entry is None:
            problem = f"{what}, but there is no such volume"
            lost = f"{held.dirty_sectors} dirty sectors, until the volume exists again"
            report(
                Finding(
                    "volume-missing", Severity.DAMAGE, "uuid table", f"{where}, slot {inode}", problem, lost
                )
            )
        elif entry.is_burnt:
            _report_gone(entry, held, what, f"{where}, slot {inode}", report)


def _report_gone(entry: UuidEntry, held: VolumeSectors, what: str, where: str, report: Report) -> None:
    """1. Dirty data of a backing device that was given up. 2. What deleting a volume leaves behind.

    A flash-only volume, whose data is always dirty, keeps its size in the slot when it is deleted.
    """
    if held.dirty_sectors and not entry.sectors:
        since = f" on {_day(entry.invalidated)}" if entry.invalidated else ""
        problem = f"{what} of a backing device that was given up{since}"
        lost = f"{held.dirty_sectors} dirty sectors, unless they are written back"
        report(Finding("volume-gone", Severity.DAMAGE, "uuid table", where, problem, lost))
        return
    report(Finding("volume-gone", Severity.NOTE, "uuid table", where, f"{what} of a deleted volume"))


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


SIZE_BITS = 16
SIZE_MASK = (1 << SIZE_BITS) - 1


def _packed_extents(rows: Rows) -> NDArray[np.int64]:
    """Returns first sector and length of each row in one number that sorts by the sector."""
    packed: NDArray[np.int64] = rows.first_sectors << SIZE_BITS | rows.sectors
    return packed


def _overlapping(extents: NDArray[np.int64]) -> Iterator[int]:
    """Yields the first sectors of sorted packed extents that begin before an earlier one ends.

    In parts: all of them unpacked would be the most that a check has in memory.
    """
    reached = 0
    for start in range(0, len(extents), CHUNK_ROWS):
        part = extents[start : start + CHUNK_ROWS]
        sectors = part >> SIZE_BITS
        ends = np.maximum.accumulate(sectors + (part & SIZE_MASK))
        before = np.maximum(np.append(reached, ends[:-1]), reached)
        yield from sectors[sectors < before].tolist()
        reached = max(reached, int(ends[-1]))


def _buckets(census: Census, rows: Rows) -> NDArray[np.int64]:
    buckets: NDArray[np.int64] = census.geometry.buckets_of(rows.first_sectors)
    return buckets


def _add_up(totals: KeyTotals, live: Rows) -> None:
    """Add up live keys; one with several live pointers counts once."""
    _, firsts = np.unique(live.keys, return_index=True)
    totals.live_keys += len(firsts)
    chosen = np.zeros(len(live), bool)
    chosen[firsts] = True
    once = live.where(chosen)
    for inode in np.unique(once.inodes).tolist():
        volume = totals.volumes.setdefault(inode, VolumeSectors())
        of_inode = once.where(once.inodes == inode)
        volume.keys += len(of_inode)
        volume.dirty_sectors += int(of_inode.sectors[of_inode.dirty].sum())
        volume.clean_sectors += int(of_inode.sectors[~of_inode.dirty].sum())


def _end(key: Key) -> int:
    return key.pointers[0].sector + key.sectors


def _kind(key: Key) -> str:
    return "dirty" if key.dirty else "clean"
