# SPDX-License-Identifier: GPL-2.0-only
"""A map of dirty extents as a table for dmsetup: which device has which sectors of the merged one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bcached.store.rescue.extent_map import NO_MEMBER, ROW_WORDS


@dataclass(frozen=True, slots=True)
class LinearTarget:
    """One line: sectors [start, start + sectors) are a device's from its sector on.

    Of no device, they are zeros, or cannot be read.
    """

    start: int
    sectors: int
    device: str | None = None
    sector: int = 0
    is_readable: bool = True

    def __str__(self) -> str:
        if not self.is_readable:
            return f"{self.start} {self.sectors} error"
        if self.device is None:
            return f"{self.start} {self.sectors} zero"
        return f"{self.start} {self.sectors} linear {self.device} {self.sector}"


def targets_of(
    rows: bytes, size_sectors: int, caches: Sequence[str], base: str | None, base_sector: int
) -> Iterator[LinearTarget]:
    """Yields the targets for a packed map (extent_map.py), without a gap, and neighbours as one."""
    columns: NDArray[np.uint64] = np.frombuffer(rows, np.uint64).reshape(-1, ROW_WORDS)
    last = LinearTarget(0, 0)
    for found in _targets(columns, size_sectors, caches, base, base_sector):
        if last.sectors and _continues(last, found):
            last = replace(last, sectors=last.sectors + found.sectors)
            continue
        if last.sectors:
            yield last
        last = found
    if last.sectors:
        yield last


def _targets(
    columns: NDArray[np.uint64], size_sectors: int, caches: Sequence[str], base: str | None, base_sector: int
) -> Iterator[LinearTarget]:
    end = 0
    for row in columns:
        start, sectors, device, sector = row.tolist()
        if start >= size_sectors:
            break
        if start > end:
            yield LinearTarget(end, start - end, base, base_sector + end if base else 0)
        sectors = min(sectors, size_sectors - start)
        is_readable = device != NO_MEMBER
        yield LinearTarget(start, sectors, caches[device] if is_readable else None, sector, is_readable)
        end = start + sectors
    if end < size_sectors:
        yield LinearTarget(end, size_sectors - end, base, base_sector + end if base else 0)


def _continues(before: LinearTarget, target: LinearTarget) -> bool:
    if (before.device, before.is_readable) != (target.device, target.is_readable):
        return False
    return before.device is None or before.sector + before.sectors == target.sector
