# SPDX-License-Identifier: GPL-2.0-only
"""A map of dirty extents as a table for dmsetup: which device has which sectors of the merged one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.store.rescue.extent_map import ROW_WORDS


@dataclass(frozen=True, slots=True)
class LinearTarget:
    """One line: sectors [start, start + sectors) are a device's from its sector on; of no device, zeros."""

    start: int
    sectors: int
    device: str | None = None
    sector: int = 0

    def __str__(self) -> str:
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
            last = LinearTarget(last.start, last.sectors + found.sectors, last.device, last.sector)
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
        yield LinearTarget(start, sectors, caches[device], sector)
        end = start + sectors
    if end < size_sectors:
        yield LinearTarget(end, size_sectors - end, base, base_sector + end if base else 0)


def _continues(before: LinearTarget, target: LinearTarget) -> bool:
    is_zero = before.device is None and target.device is None
    return is_zero or (before.device == target.device and before.sector + before.sectors == target.sector)
