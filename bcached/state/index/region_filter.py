# SPDX-License-Identifier: GPL-2.0-only
"""Which regions of volumes hold no key of a leaf that is not in memory, without reading it.

A Bloom filter for each leaf, made when the leaf is evicted: it may take an empty region for one with a key,
never the contrary. A region has the size of a slot of the client's cache, so of nearly all names that nothing
is stored under this is known.
"""

import numpy as np

from bcached.format.bits import WordColumn
from bcached.format.bkey import KEY_INODE, KEY_SIZE
from bcached.state.index.keys.extents import Extents

REGION_SHIFT = 17  # sectors
REGIONS_MAX = 4  # of a range that is asked for
BITS_A_KEY, PROBES = 12, 4  # one of 150 empty regions is taken for one with a key
REGION_FACTOR, INODE_FACTOR, MIXING_FACTOR = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xFF51AFD7ED558CCD
WORD_MASK, LOW_MASK, LOW_SHIFT, MIXING_SHIFT = (1 << 64) - 1, (1 << 32) - 1, 32, 33


class RegionFilter:
    """The filter of one leaf."""

    __slots__ = ("_bits", "_size")

    def __init__(self, extents: Extents) -> None:
        hashes = _hashes(extents)
        self._size = max(len(hashes) * BITS_A_KEY, 8)
        is_set = np.zeros(self._size, bool)
        position, step = hashes & np.uint64(LOW_MASK), hashes >> np.uint64(LOW_SHIFT)
        for _ in range(PROBES):
            is_set[(position * np.uint64(self._size)) >> np.uint64(LOW_SHIFT)] = True
            position = (position + step) & np.uint64(LOW_MASK)
        self._bits = np.packbits(is_set, bitorder="little").tobytes()

    def __repr__(self) -> str:
        return f"<RegionFilter of {self._size} bits>"

    def __len__(self) -> int:
        """Bytes of memory."""
        return len(self._bits)

    def excludes(self, inode: int, start: int, end: int) -> bool:
        """Whether no key has a sector in a range, for certain."""
        first, last = start >> REGION_SHIFT, (end - 1) >> REGION_SHIFT
        if last - first >= REGIONS_MAX:
            return False
        return not any(self._may_hold(inode, region) for region in range(first, last + 1))

    def _may_hold(self, inode: int, region: int) -> bool:
        mixed = (region * REGION_FACTOR + inode * INODE_FACTOR) & WORD_MASK
        mixed = (mixed ^ mixed >> MIXING_SHIFT) * MIXING_FACTOR & WORD_MASK
        position, step, bits, size = mixed & LOW_MASK, mixed >> LOW_SHIFT, self._bits, self._size
        for _ in range(PROBES):
            bit = position * size >> LOW_SHIFT
            if not bits[bit >> 3] >> (bit & 7) & 1:
                return False
            position = (position + step) & LOW_MASK
        return True


def _hashes(extents: Extents) -> WordColumn:
    """Returns a hash of each region that an extent begins or ends in; it extends over no more than two."""
    runs = extents.runs
    if not runs:
        return np.zeros(0, np.uint64)
    heads = np.concatenate([np.frombuffer(run.heads, np.uint64) for run in runs])
    ends = np.concatenate([np.frombuffer(run.ends, np.uint64) for run in runs])
    shift = np.uint64(REGION_SHIFT)
    firsts = (ends - KEY_SIZE.of_column(heads).astype(np.uint64)) >> shift
    lasts = (ends - np.uint64(1)) >> shift
    inodes, extends = KEY_INODE.of_column(heads).astype(np.uint64), firsts != lasts
    if extends.any():
        firsts, inodes = np.append(firsts, lasts[extends]), np.append(inodes, inodes[extends])
    mixed: WordColumn = firsts * np.uint64(REGION_FACTOR) + inodes * np.uint64(INODE_FACTOR)
    mixed ^= mixed >> np.uint64(MIXING_SHIFT)
    mixed *= np.uint64(MIXING_FACTOR)
    return mixed
