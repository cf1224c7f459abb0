# SPDX-License-Identifier: GPL-2.0-only
"""Maps of ddrescue for copies that lack some sectors."""

from collections.abc import Iterable

SECTOR = 512


def map_text(size_bytes: int, bad: Iterable[range]) -> str:
    """The map of a copy of a device of that size, without these sectors, which are in order and apart."""
    blocks, done = [], 0
    for sectors in bad:
        begin, end = sectors.start * SECTOR, sectors.stop * SECTOR
        blocks += [f"{done:#x} {begin - done:#x} +"] if begin > done else []
        blocks.append(f"{begin:#x} {end - begin:#x} -")
        done = end
    blocks += [f"{done:#x} {size_bytes - done:#x} +"] if done < size_bytes else []
    return "\n".join(["# by ddrescue", "0x0 + 1", *blocks, ""])
