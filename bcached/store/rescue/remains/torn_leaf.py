# SPDX-License-Identifier: GPL-2.0-only
"""Whether the last bset of a leaf has a wrong checksum because a power cut interrupted its write.

Then its keys are all in the journal, and nothing is lost. What shows it: the keys of the first sectors are in
the journal, one and all, and those behind a sector's boundary are not: there is what was there before.
"""

from bcached.store.btree.node_reader import NodeFound
from bcached.store.reading.torn_append import MappedSectors, placed_keys
from bcached.units import SECTOR_BYTES


def was_interrupted(node: NodeFound, journaled: MappedSectors) -> bool:
    """Whether a leaf has no damage but a last bset that was being written."""
    return not node.level and node.is_torn and _is_cut_at_sector(memoryview(node.torn), journaled)


def _is_cut_at_sector(used: memoryview, journaled: MappedSectors) -> bool:
    """Whether the keys of the first sectors are all in the journal, and none of those behind is."""
    before = 0
    keys = placed_keys(used)
    for begin, end, key in keys:
        if key is not None and journaled.have(key):
            before += 1
            continue
        cut = -(-begin // SECTOR_BYTES) * SECTOR_BYTES
        crosses = cut == begin or cut < end
        return before > 0 and crosses and not any(key and journaled.have(key) for _, _, key in keys)
    return False
