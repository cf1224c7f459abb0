# SPDX-License-Identifier: GPL-2.0-only
"""Which sectors of the members cannot be read: behind a short device's end, or not in the copy of one."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bcached.keys import Key
from bcached.state.index.keys.key_rows import Rows
from bcached.store.check.checker import CheckedSet
from bcached.store.finding import Finding, Severity
from bcached.store.membership import MemberFound
from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.store.rescue.remains.missing_members import readable_sectors
from bcached.store.unread_device import unread_of

NEVER = 1 << 62  # a sector that no device has


UNCOPIED = "key-uncopied"


@dataclass(slots=True)
class Unreadable:
    """The ends of the members, and the ranges of each that cannot be read, in order and apart; in sectors."""

    ends: Sequence[int]
    ranges: dict[int, Sequence[range]] = field(default_factory=dict)
    _range_ends: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, members: Sequence[MemberFound]) -> "Unreadable":
        """Returns what is known of the members without reading them."""
        found = cls([readable_sectors(member.block_device) for member in members])
        for number, member in enumerate(members):
            found.add(number, unread_of(member.block_device))
        return found

    def add(self, member: int, ranges: Sequence[range]) -> None:
        """Set which ranges of a member cannot be read, in order and apart."""
        end = self.ends[member]
        inside = [range(bad.start, min(bad.stop, end)) for bad in ranges if bad.start < end]
        if inside:
            self.ranges[member] = inside
            self._range_ends[member] = [bad.stop for bad in inside]

    def overlaps(self, place: Place, sectors: int) -> bool:
        """Whether one of these sectors cannot be read."""
        return any(self._bad(place.device, place.sector, place.sector + sectors))

    def parts(self, place: Place, sectors: int) -> Iterator[tuple[int, int, bool]]:
        """Yields the parts of a piece in order: sectors skipped, sectors, whether these can be read."""
        first, end = place.sector, place.sector + sectors
        done = first
        for bad in self._bad(place.device, first, end):
            begin, behind = max(bad.start, first), min(bad.stop, end)
            if begin > done:
                yield done - first, begin - done, True
            yield begin - first, behind - begin, False
            done = behind
        if done < end:
            yield done - first, end - done, True

    def _bad(self, member: int, first: int, end: int) -> Iterator[range]:
        """Yields the ranges of a member that cannot be read and overlap sectors [first, end), in order."""
        ranges = self.ranges.get(member, ())
        for number in range(bisect_right(self._range_ends.get(member, ()), first), len(ranges)):
            if ranges[number].start >= end:
                break
            yield ranges[number]
        if end > self.ends[member]:
            yield range(self.ends[member], NEVER)

    def overlaps_rows(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each row has a sector that cannot be read."""
        firsts, ends = rows.first_sectors, rows.first_sectors + rows.sectors
        overlapping = ends > np.array(self.ends)[rows.devices]
        for member, ranges in self.ranges.items():
            numbers = np.searchsorted(self._range_ends[member], firsts, side="right")
            starts = np.append([bad.start for bad in ranges], NEVER)
            overlapping |= (rows.devices == member) & (starts[numbers] < ends)
        return overlapping

    def split(self, extent: DirtyExtent) -> Iterator[tuple[DirtyExtent, bool]]:
        """Yields the parts of an extent, with those copies that can be read, if any, and whether any can."""
        cuts = {0, extent.sectors}
        for place in extent.copies:
            cuts |= {skipped for skipped, _, _ in self.parts(place, extent.sectors)}
        for begin, end in pairwise(sorted(cuts)):
            copies = [Place(place.device, place.sector + begin) for place in extent.copies]
            readable = tuple(place for place in copies if not self.overlaps(place, end - begin))
            offset, sectors = extent.offset + begin, end - begin
            part = replace(extent, offset=offset, sectors=sectors, copies=readable or tuple(copies))
            yield part, bool(readable)

    def split_all(
        self, extents: Iterable[tuple[Key, DirtyExtent]]
    ) -> Iterator[tuple[Key, DirtyExtent, bool]]:
        """Yields the parts of extents with the keys of these, and whether each can be read."""
        for key, extent in extents:
            for part, is_readable in self.split(extent):
                yield key, part, is_readable

    @classmethod
    def uncopied(cls, members: Sequence[MemberFound]) -> "Unreadable":
        """Returns only what copies lack, by their maps."""
        found = cls([NEVER] * len(members))
        for number, member in enumerate(members):
            found.add(number, unread_of(member.block_device))
        return found


def report_uncopied(checked: CheckedSet) -> None:
    """Report live keys of data that a copy lacks: on the copy they would be read as zeros."""
    uncopied = Unreadable.uncopied(checked.members)
    if checked.tree is None or not uncopied.ranges:
        return
    keys = sectors = 0
    for rows in checked.tree.rows.chunks():
        here = rows.where(uncopied.overlaps_rows(rows))
        live = [key for key in here if checked.staleness(key.pointers[0]) == 0]
        keys += len(live)
        sectors += sum(key.sectors for key in live if key.dirty)
    if keys:
        problem = f"{keys} keys name data that was not copied, or only in part"
        where, lost = checked.members[0].path, f"some of their {sectors} dirty sectors"
        checked.findings.report(Finding(UNCOPIED, Severity.DAMAGE, "data", where, problem, lost))
