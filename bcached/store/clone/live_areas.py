# SPDX-License-Identifier: GPL-2.0-only
"""The areas of a member that count: its metadata buckets, and the blocks that hold live data."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.state.accounting.check_counts import Census, Use
from bcached.state.index.keys.key_rows import KeyRows
from bcached.store.check.checker import CheckedSet
from bcached.store.member import geometry_of
from bcached.store.membership import with_new_journal
from bcached.units import SECTOR_BYTES

METADATA = (Use.JOURNAL, Use.PRIO, Use.UUID, Use.BTREE)
PIECE_SECTORS = 2048  # read at once

Sectors = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LiveAreas:
    """Areas in whole blocks, in order and apart from each other: their first sectors and their ends."""

    firsts: Sectors
    ends: Sectors

    @property
    def sectors(self) -> int:
        """Sectors of all areas."""
        return int((self.ends - self.firsts).sum())

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yields byte and length of all areas, in pieces that can be read at once."""
        for first, end in zip(self.firsts.tolist(), self.ends.tolist(), strict=True):
            for sector in range(first, end, PIECE_SECTORS):
                yield sector * SECTOR_BYTES, min(PIECE_SECTORS, end - sector) * SECTOR_BYTES


def live_areas(checked: CheckedSet, number: int) -> LiveAreas:
    """Returns the areas of a member of a set that was checked; of a fresh one only its future journal."""
    superblock = checked.members[number].superblock
    if checked.is_fresh:
        superblock = with_new_journal(superblock)
    geometry = geometry_of(superblock)
    if checked.is_fresh or checked.tree is None:
        # What an older set with this uuid left there would be read as this one's journal.
        journal = geometry.journal_buckets
        return _merged([journal.start * geometry.bucket_sectors], [journal.stop * geometry.bucket_sectors])
    census = checked.censuses[number]
    buckets = np.flatnonzero(np.isin(census.uses, METADATA)) * geometry.bucket_sectors
    firsts, ends = _data(checked.tree.rows, census, number, geometry.block_sectors)
    return _merged([*buckets, *firsts], [*(buckets + geometry.bucket_sectors), *ends])


def _data(rows: KeyRows, census: Census, number: int, block_sectors: int) -> tuple[Sectors, Sectors]:
    """Returns the first sectors and ends of all live keys' data on a member, in whole blocks."""
    firsts: list[Sectors] = [np.empty(0, np.int64)]
    ends: list[Sectors] = [np.empty(0, np.int64)]
    for chunk in rows.chunks():
        here = chunk.where(chunk.devices == number)
        live = here.where(census.gens[census.geometry.buckets_of(here.first_sectors)] == here.gens)
        firsts.append(live.first_sectors // block_sectors * block_sectors)
        ends.append(-(-(live.first_sectors + live.sectors) // block_sectors) * block_sectors)
    return np.concatenate(firsts), np.concatenate(ends)


def _merged(starts: list[int], stops: list[int]) -> LiveAreas:
    """Returns the areas in order, those that touch or overlap as one."""
    order = np.argsort(np.array(starts, np.int64), kind="stable")
    firsts, ends = np.array(starts, np.int64)[order], np.maximum.accumulate(np.array(stops, np.int64)[order])
    begins = np.ones(len(firsts), bool)
    begins[1:] = firsts[1:] > ends[:-1]
    numbers = np.flatnonzero(begins)
    return LiveAreas(firsts[numbers], ends[np.append(numbers[1:] - 1, len(ends) - 1)])
