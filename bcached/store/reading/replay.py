# SPDX-License-Identifier: GPL-2.0-only
"""The journal's keys merged, newest wins, as they are then merged into the tree."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.format.bkey import Bounds
from bcached.format.jset import JournalEntry
from bcached.keys import Key
from bcached.state.index.keys.extents import Extents
from bcached.store.btree.node_rules import deletion_of, is_extent
from bcached.store.finding import Report
from bcached.store.reading.torn_append import MappedSectors


@dataclass(slots=True)
class Replayed:
    """The valid keys in order; these merged, deletions included; the parts that later ones cut off."""

    keys: list[Key] = field(default_factory=list)
    extents: Extents = field(default_factory=lambda: Extents(keep_deletions=True))
    superseded: list[Key] = field(default_factory=list)


def merge_entries(path: str, entries: Sequence[JournalEntry], bounds: Bounds, report: Report) -> Replayed:
    """Check the keys of the journal, and merge them."""
    replayed = Replayed()
    for entry in entries:
        for number, key in enumerate(entry.keys):
            if is_extent(key, bounds, f"{path} journal entry {entry.seq}, key {number}", report):
                replayed.keys.append(key)
                replayed.superseded += replayed.extents.insert(key)
            elif key.sectors:
                replayed.superseded += replayed.extents.insert(deletion_of(key))
    return replayed


def journaled_sectors(entries: Sequence[JournalEntry]) -> MappedSectors:
    """Returns what the keys of these entries map, those of older ones included."""
    return MappedSectors(key for entry in entries for key in entry.keys)
