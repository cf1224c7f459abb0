# SPDX-License-Identifier: GPL-2.0-only
"""What no reader can know: that the newest journal entries were erased in the first lap of the ring.

Then the image is, byte for byte, one that lost power before they were written. What their keys name may be
wrong then, and nothing else. Nor is that excused where the rest shows that they were there: prios that were
written twice in them, or their keys in a small append to a leaf.
"""

from itertools import pairwise

from bcached.format.jset import JournalEntry
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet
from bcached.store.check.leaf_traces import FILLED_BYTES
from bcached.store.journal.reader import End
from bcached.store.reading.replay import journaled_sectors
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.units import SECTOR_BYTES
from instruments.samples.damaged_kernel_image import LAPPED, bsets, image_bytes, structures


async def excused_sectors(name: str, raw: bytes, left: SetLeft) -> set[int]:
    """Returns the sectors of the volume that may be wrong in an image with these damaged bytes."""
    end, newest = left.journal.found.end, left.journal.found.newest.seq
    if name.endswith(LAPPED) or end is None or end.known != End.PLAUSIBLE:
        return set()
    checked, nodes = await structures(name)
    assert checked.journal is not None
    every = checked.journal.sound_by_seq()
    erased = [entry for seq, entry in every.items() if seq > newest]
    kept = [entry for seq, entry in every.items() if seq <= newest]
    if any(_has_trace(checked, entry, raw) for entry in erased):
        return set()
    found = left.journal.found.sound_by_seq()
    if all(entry.seq in found for entry in kept):
        if _prios_written(every, newest) > 1 and _are_whole(_prio_places(checked, every, newest), name, raw):
            return set()
        if any(_are_whole(_places(leaf), name, raw) for leaf in _leaves_ahead(nodes, kept, erased)):
            return set()
    keys = [key for entry in erased for key in entry.keys if not key.inode]
    return {sector for key in keys for sector in range(key.offset, key.end)}


def _has_trace(checked: CheckedSet, entry: JournalEntry, raw: bytes) -> bool:
    """Whether anything is left of an entry's first sector."""
    assert checked.journal is not None
    bucket_bytes = checked.members[0].superblock.bucket_bytes
    for bucket, placed in checked.journal.placed():
        if placed.entry.seq == entry.seq:
            byte = bucket.bucket * bucket_bytes + placed.offset_bytes
            return any(raw[byte : byte + SECTOR_BYTES])
    return True


def _prios_written(every: dict[int, JournalEntry], newest: int) -> int:
    """Returns how many prio chains entries behind the newest found name."""
    heads = [every[seq].prio_heads[0] for seq in range(newest, max(every) + 1)]
    return sum(before != after for before, after in pairwise(heads))


def _prio_places(checked: CheckedSet, every: dict[int, JournalEntry], newest: int) -> list[tuple[int, int]]:
    """Returns where the prio chains begin that the newest found entry and all behind it name."""
    bucket_bytes = checked.members[0].superblock.bucket_bytes
    heads = {every[seq].prio_heads[0] for seq in range(newest, max(every) + 1)}
    return [(head * bucket_bytes, SECTOR_BYTES) for head in heads]


def _places(node: NodeFound) -> list[tuple[int, int]]:
    """Returns where the first sector of a leaf is, and its last bset, with all that is behind it."""
    begin, length = node.key.pointers[0].sector * SECTOR_BYTES, node.key.sectors * SECTOR_BYTES
    last = node.bsets[-1].offset_bytes
    return [(begin, SECTOR_BYTES), (begin + last, length - last)]


def _are_whole(places: list[tuple[int, int]], name: str, raw: bytes) -> bool:
    before = image_bytes(name)
    return all(raw[byte : byte + length] == before[byte : byte + length] for byte, length in places)


def _leaves_ahead(
    nodes: list[NodeFound], kept: list[JournalEntry], erased: list[JournalEntry]
) -> list[NodeFound]:
    """Returns the leaves whose last bset is a small append with dirty keys of erased entries only."""
    known, lost = journaled_sectors(kept), journaled_sectors(erased)
    found = []
    for node in nodes:
        lengths = [length for _, length in bsets([node], 0)]
        if len(lengths) > 1 and lengths[-1] <= FILLED_BYTES:
            keys = [key for key in node.bsets[-1].bset.keys if key.dirty and not known.have(key)]
            if any(lost.have(key) for key in keys):
                found.append(node)
    return found
