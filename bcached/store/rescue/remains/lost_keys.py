# SPDX-License-Identifier: GPL-2.0-only
"""Keys of lost parts of the index, found elsewhere: leaves that nothing leads to any more, and old entries.

An entry that no leaf needs any more is whole until the ring overwrites it. Where a leaf is lost, or all that
is below a lost root, it may be all that names the data. Used are the entries right in front of those that are
needed, back to the first gap: what they name last in a place is what was written last, whatever the leaf was
told without an entry, as by the kernel when it cleans data or moves it. Behind a gap, newer ones are missing.

It is never sure. 1. The bucket must have the key's gen: else it was used again; without prios that is the
newest gen that is named. 2. Where the journal's needed
entries, or the bsets behind the damage of a leaf, have a key, that counts. So does one of an older bset that
names the same sectors: it was cleaned since. 3. Other keys of older bsets give way.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Use
from bcached.state.buckets.gens import is_newer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position
from bcached.state.index.keys.key_rows import KeyRows
from bcached.store.finding import Finding
from bcached.store.reading.replay import merge_entries
from bcached.store.rescue.remains.doubts import DoubtfulRange
from bcached.store.rescue.remains.node_scan import SearchProgress, add_found_leaves, no_search_progress
from bcached.store.rescue.remains.plain_rows import are_outside, ranges_of
from bcached.store.rescue.remains.set_left import OldKeys, SetLeft


async def bring_back_lost(left: SetLeft, progress: SearchProgress = no_search_progress) -> None:
    """Add the keys of lost parts of the index to what was found of the set; nothing, if none is lost."""
    await add_found_leaves(left, progress)
    lost = _lost_ranges(left)
    entries = left.journal.older if lost and not left.doubts.nothing_is_sure else []
    tree = left.checked.tree
    if not entries or tree is None:
        return
    found = _last_named(left, entries, _Ranges.of(lost))
    _cut_by_newer(left, found, lost)
    tree.rows.add(_give_way(tree.rows, found))
    if len(found):
        sectors = sum(key.sectors for key in found)
        left.old_keys = OldKeys(tree.rows.key_count, sectors, entries[0].seq, entries[-1].seq)
        tree.rows.add(found)


def _lost_ranges(left: SetLeft) -> list[DoubtfulRange]:
    """Returns what lost leaves cover, and lost interior nodes if no leaf at all was found below them.

    A leaf that a search found has what the entries name of its range, but does not say which range that is.
    """
    interiors = left.doubts.interiors if left.lost_branches and not left.found_leaves else []
    return [*left.doubts.leaves, *interiors]


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Parts of the index, in order, none overlapping another."""

    lows: list[Position] = field(default_factory=list)
    highs: list[Position] = field(default_factory=list)

    @classmethod
    def of(cls, lost: Sequence[DoubtfulRange]) -> "_Ranges":
        """Returns the parts that these ranges cover together."""
        ranges = cls()
        for low, high in sorted((one.low, one.high) for one in lost):
            if ranges.highs and low <= ranges.highs[-1]:
                ranges.highs[-1] = max(high, ranges.highs[-1])
            else:
                ranges.lows.append(low)
                ranges.highs.append(high)
        return ranges

    def have(self, key: Key) -> bool:
        """Whether a part of a key is in one of them."""
        before = bisect_left(self.lows, (key.inode, key.end))
        return before > 0 and self.highs[before - 1] > (key.inode, key.offset)

    def parts_of(self, extents: Extents) -> Iterator[Key]:
        """Yields the parts of extents that are in them."""
        for low, high in zip(self.lows, self.highs, strict=True):
            yield from extents.between(low, high)


def _last_named(left: SetLeft, entries: Sequence[JournalEntry], ranges: _Ranges) -> Extents:
    """Returns the dirty keys that these entries name last, in these ranges, with a gen that is current."""
    near = [replace(entry, keys=tuple(filter(ranges.have, entry.keys))) for entry in entries]
    merged = merge_entries("", near, left.bounds, _ignore).extents
    gens = _Gens(left, entries)
    found = Extents()
    for key in ranges.parts_of(merged):
        if key.dirty and key.pointers and all(map(gens.have, key.pointers)):
            found.insert(key)
    return found


class _Gens:
    """The gens of buckets: from the prios, or if those are lost the newest that an entry or the index names.

    A bucket that is used again is named with its new gen by an entry behind, unless no key of it was
    committed, or it has a node of the index.
    """

    def __init__(self, left: SetLeft, entries: Sequence[JournalEntry]) -> None:
        self._censuses = left.checked.censuses
        self._named: dict[tuple[int, int], int] = {}
        if all(census.gens_known.all() for census in self._censuses):
            return
        for entry in (*entries, *left.journal.entries):
            for key in entry.keys:
                for pointer in key.pointers:
                    if pointer.device < len(self._censuses):
                        self._name(pointer)

    def have(self, pointer: Pointer) -> bool:
        """Whether a pointer has its bucket's gen."""
        census = self._censuses[pointer.device]
        bucket = census.geometry.bucket_of(pointer.sector)
        if census.gens_known[bucket]:
            return int(census.gens[bucket]) == pointer.gen
        if census.uses[bucket] not in (Use.FREE, Use.DATA):
            return False
        newest = self._named[pointer.device, bucket]
        return pointer.gen == newest and not (
            census.is_told(bucket) and is_newer(int(census.gens[bucket]), newest)
        )

    def _name(self, pointer: Pointer) -> None:
        place = pointer.device, self._censuses[pointer.device].geometry.bucket_of(pointer.sector)
        if is_newer(pointer.gen, self._named.setdefault(place, pointer.gen)):
            self._named[place] = pointer.gen


def _cut_by_newer(left: SetLeft, found: Extents, lost: Sequence[DoubtfulRange]) -> None:
    """Keep only what neither the needed entries have, deletions included, nor bsets behind all damage."""
    for newer in (left.doubts.replayed, *(one.newer for one in lost)):
        for key in newer:
            found.remove(key.inode, key.offset, key.end)


def _give_way(rows: KeyRows, found: Extents) -> Extents:
    """Take the keys out of the rows that the found ones replace, and return what stays of them.

    A key that names the same sectors as a found one stays, and the found one goes.
    """
    ranges = list(ranges_of(found))
    numbered = [
        (number, key)
        for chunk in rows.chunks()
        for near in [chunk.where(~are_outside(chunk, ranges))]
        for number, key in zip(near.keys.tolist(), near, strict=True)
    ]
    for _, key in numbered:
        for part in found.lookup(key.inode, key.offset, key.end):
            if _is_same_place(part, key):
                found.remove(part.inode, part.offset, part.end)
    replaced = {number for number, key in numbered if not found.is_empty_in(key.inode, key.offset, key.end)}
    rest = Extents()
    for key in rows.take(replaced):
        rest.insert(key)
    for key in found:
        rest.remove(key.inode, key.offset, key.end)
    return rest


def _is_same_place(part: Key, key: Key) -> bool:
    """Whether a key of one pointer names the sectors that a part in it has, dirty or not."""
    (pointer,) = key.pointers
    return Pointer(pointer.device, pointer.sector + part.offset - key.offset, pointer.gen) in part.pointers


def _ignore(finding: Finding) -> None:
    del finding
