# SPDX-License-Identifier: GPL-2.0-only
"""Reads all live data of a set: what cannot be read, and where clean data differs from its backing device.

Extents are read in the order of the devices, neighbours together. If that fails, each is read by itself, and
in halves, so that only what is bad counts as unreadable.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bcached.device.run_all import run_all
from bcached.errors import DeviceError
from bcached.keys import Key
from bcached.state.index.keys.key_rows import Rows
from bcached.store.finding import Finding, Report, Severity
from bcached.store.rescue.backing_check import CheckedBacking
from bcached.store.rescue.dirty_extents import Place
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.rescue.unreadable import Unreadable
from bcached.units import SECTOR_BYTES

TOGETHER_SECTORS = 2048  # read at once
GAP_SECTORS = 64  # between neighbours: reading it is cheaper than another read
IN_FLIGHT = 4


@dataclass(slots=True)
class DataRead:
    """What was read, in sectors of the set's members."""

    dirty_sectors: int = 0
    clean_sectors: int = 0
    unreadable_dirty_sectors: int = 0
    unreadable_clean_sectors: int = 0
    unreadable_extents: int = 0
    compared_sectors: int = 0  # clean, with the backing device
    different_sectors: int = 0
    different_extents: int = 0

    @property
    def sectors(self) -> int:
        """All that were gone through."""
        return self.dirty_sectors + self.clean_sectors


@dataclass(slots=True)
class _Outcome:
    """Of one extent."""

    unreadable: int = 0
    compared: int = 0
    different: int = 0


Progress = Callable[[DataRead], None]


@dataclass(slots=True)
class DataCheck:
    """One reading. backings are by inode: clean data is compared with them."""

    left: SetLeft
    unreadable: Unreadable
    backings: Mapping[int, CheckedBacking]
    report: Report
    progress: Progress = lambda _: None
    done: DataRead = field(default_factory=DataRead)

    async def run(self) -> DataRead:
        """Read everything that is live, and dirty data that is not."""
        tree = self.left.checked.tree
        for rows in tree.rows.chunks() if tree is not None else ():
            for device in range(len(self.left.members)):
                chosen = self._chosen(rows, device)
                await run_all((partial(self._read_run, run) for run in runs_of(chosen)), IN_FLIGHT)
            self.progress(self.done)
        return self.done

    def _chosen(self, rows: Rows, device: int) -> Rows:
        """Returns the rows of a member in the order of its sectors: stale clean data counts no more."""
        here = rows.where(rows.devices == device)
        census = self.left.checked.censuses[device]
        current = census.behind(census.geometry.buckets_of(here.first_sectors), here.gens) == 0
        here = here.where(current | here.dirty)
        return here.where(np.argsort(here.first_sectors, kind="stable"))

    async def _read_run(self, run: Rows) -> None:
        first = int(run.first_sectors[0])
        ends = run.first_sectors + run.sectors
        device = int(run.devices[0])
        data = await self._read(Place(device, first), int(ends.max()) - first)
        for key in run:
            sector = key.pointers[0].sector
            begin = (sector - first) * SECTOR_BYTES
            known = data[begin : begin + key.sectors * SECTOR_BYTES] if data is not None else None
            await self._judge(key, known)

    async def _read(self, place: Place, sectors: int) -> bytes | None:
        """Returns sectors of a member; None if one of them cannot be read, or so many not at once."""
        if sectors > TOGETHER_SECTORS or self.unreadable.overlaps(place, sectors):
            return None
        try:
            return await self.left.members[place.device].block_device.read(
                place.sector * SECTOR_BYTES, sectors * SECTOR_BYTES
            )
        except DeviceError:
            return None

    async def _judge(self, key: Key, data: bytes | None) -> None:
        """Count an extent, and report what is wrong with it."""
        outcome = _Outcome()
        if data is not None:
            await self._compare(key, 0, data, outcome)
        else:
            for skipped in range(0, key.sectors, TOGETHER_SECTORS):
                await self._read_part(key, skipped, min(TOGETHER_SECTORS, key.sectors - skipped), outcome)
        self._count(key, outcome)

    async def _read_part(self, key: Key, skipped: int, sectors: int, outcome: _Outcome) -> None:
        """Read a part of an extent, in halves where it cannot be read whole."""
        pointer = key.pointers[0]
        data = await self._read(Place(pointer.device, pointer.sector + skipped), sectors)
        if data is not None:
            await self._compare(key, skipped, data, outcome)
        elif sectors == 1:
            outcome.unreadable += 1
        else:
            half = sectors // 2
            await self._read_part(key, skipped, half, outcome)
            await self._read_part(key, skipped + half, sectors - half, outcome)

    async def _compare(self, key: Key, skipped: int, data: bytes, outcome: _Outcome) -> None:
        """Compare clean data with the backing device, if that is given."""
        backing = self.backings.get(key.inode)
        if backing is None or key.dirty:
            return
        first, sectors = key.offset + skipped, len(data) // SECTOR_BYTES
        if first < backing.data.start or first + sectors > backing.data.stop:
            self._report_outside(key, backing)
            return
        try:
            other = await backing.device.read(first * SECTOR_BYTES, len(data))
        except DeviceError as error:
            where = f"{backing.path} sectors {first} to {first + sectors - 1}"
            lost = "nothing while the cache has it"
            self.report(
                Finding("backing-unreadable", Severity.DAMAGE, "backing device", where, error.reason, lost)
            )
            return
        outcome.compared += sectors
        outcome.different += different_sectors(data, other)

    def _report_outside(self, key: Key, backing: CheckedBacking) -> None:
        where = f"{backing.path} sectors {key.offset} to {key.end - 1}"
        problem = (
            f"expected clean data inside of sectors {backing.data.start} to {backing.data.stop - 1}: "
            "it is not the device, or not all of it"
        )
        self.report(Finding("backing-size", Severity.DAMAGE, "backing device", where, problem))

    def _count(self, key: Key, outcome: _Outcome) -> None:
        done = self.done
        if key.dirty:
            done.dirty_sectors += key.sectors
            done.unreadable_dirty_sectors += outcome.unreadable
        else:
            done.clean_sectors += key.sectors
            done.unreadable_clean_sectors += outcome.unreadable
        done.compared_sectors += outcome.compared
        done.different_sectors += outcome.different
        self._report_outcome(key, outcome)

    def _report_outcome(self, key: Key, outcome: _Outcome) -> None:
        kind = "dirty" if key.dirty else "clean"
        if outcome.unreadable:
            self.done.unreadable_extents += 1
            problem = f"{outcome.unreadable} of its {key.sectors} {kind} sectors cannot be read"
            lost = f"{outcome.unreadable} dirty sectors" if key.dirty else "nothing: they are clean"
            self._report("data-unreadable", key, problem, lost)
        if outcome.different:
            self.done.different_extents += 1
            path = self.backings[key.inode].path
            problem = f"{outcome.different} of its {key.sectors} clean sectors differ from those of {path}"
            self._report("data-differs", key, problem, "one of the two: they should be the same")

    def _report(self, rule: str, key: Key, problem: str, lost: str) -> None:
        pointer = key.pointers[0]
        path = self.left.members[pointer.device].path
        where = f"inode {key.inode} sector {key.offset}, {path} sector {pointer.sector}"
        self.report(Finding(rule, Severity.DAMAGE, "data", where, problem, lost))


def runs_of(rows: Rows) -> Iterator[Rows]:
    """Yields rows in the order of their sectors in parts that are near enough to be read at once."""
    firsts, ends = rows.first_sectors.tolist(), (rows.first_sectors + rows.sectors).tolist()
    start, reached = 0, 0
    for number in range(len(rows) + 1):
        is_last = number == len(rows)
        if number > start and (
            is_last
            or firsts[number] > reached + GAP_SECTORS
            or max(ends[number], reached) - firsts[start] > TOGETHER_SECTORS
        ):
            yield rows.where(np.arange(start, number))
            start, reached = number, 0
        if not is_last:
            reached = max(reached, ends[number])


def different_sectors(one: bytes, other: bytes) -> int:
    """Returns how many sectors of two equally long pieces differ."""
    if one == other:
        return 0
    columns = (np.frombuffer(raw, np.uint8).reshape(-1, SECTOR_BYTES) for raw in (one, other))
    return int(np.not_equal(*columns).any(axis=1).sum())
