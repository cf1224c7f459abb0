# SPDX-License-Identifier: GPL-2.0-only
"""Whether the last bset of a leaf has a wrong checksum because a power cut interrupted its write.

Then its keys are all in the journal, and nothing is lost. What shows it: the keys of the first sectors are in
the journal, one and all, and those behind a sector's boundary are not: there is what was there before.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

from bcached.errors import BcachedError, FormatError
from bcached.format.bkey import COUNT_LIMIT, COUNT_SHIFT, HEAD_WORDS, HIGH_BIT, WORD_BYTES, parse_keys
from bcached.format.bset import BSET_HEADER, BSET_VERSION
from bcached.format.jset import JournalEntry
from bcached.format.magic import BSET
from bcached.keys import Key
from bcached.store.btree.node_reader import NodeFound
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES

# Where a key has its data: volume, dirty, device, gen, and how far the sectors of both are apart.
Mapping = tuple[int, bool, int, int, int]


class JournaledPlaces:
    """Which sectors of volumes the journal maps to which of the devices, in any entry that it needs."""

    def __init__(self, entries: Sequence[JournalEntry]) -> None:
        self._entries = entries

    @cached_property
    def _ranges(self) -> dict[Mapping, list[tuple[int, int]]]:
        found: dict[Mapping, list[tuple[int, int]]] = {}
        for entry in self._entries:
            for key in entry.keys:
                for mapping in _mappings(key):
                    found.setdefault(mapping, []).append((key.offset, key.end))
        return {mapping: sorted(ranges) for mapping, ranges in found.items()}

    def have(self, key: Key) -> bool:
        """Whether every sector of a key is mapped as the key does it."""
        mappings = list(_mappings(key))
        return bool(mappings) and all(self._cover(mapping, key.offset, key.end) for mapping in mappings)

    def _cover(self, mapping: Mapping, offset: int, end: int) -> bool:
        for first, behind in self._ranges.get(mapping, ()):
            if first <= offset < behind:
                offset = behind
        return offset >= end


def _mappings(key: Key) -> Iterator[Mapping]:
    for pointer in key.pointers:
        yield key.inode, key.dirty, pointer.device, pointer.gen, pointer.sector - key.offset


async def was_interrupted(
    members: Sequence[MemberFound], node: NodeFound, journaled: JournaledPlaces
) -> bool:
    """Whether a leaf has no damage but a last bset that was being written."""
    if node.level or not node.is_torn or node.behind:
        return False
    pointer, last = node.key.pointers[0], node.bsets[-1]
    member = members[pointer.device]
    end = last.offset_bytes + last.blocks * member.superblock.block_sectors * SECTOR_BYTES
    begin, length = pointer.sector * SECTOR_BYTES + end, node.key.sectors * SECTOR_BYTES - end
    try:
        raw = await member.block_device.read(begin, length)
    except BcachedError:
        return False
    _, magic, seq, version, words = BSET_HEADER.unpack_from(raw)
    size_bytes = BSET_HEADER.size + words * WORD_BYTES
    is_bset = magic == BSET ^ member.superblock.set_magic and version <= BSET_VERSION
    if not is_bset or seq != node.bsets[0].bset.seq or size_bytes > length:
        return False
    return _is_cut_at_sector(memoryview(raw)[:size_bytes], journaled)


def _is_cut_at_sector(used: memoryview, journaled: JournaledPlaces) -> bool:
    """Whether the keys of the first sectors are all in the journal, and none of those behind is."""
    before = 0
    keys = _keys(used)
    for begin, end, key in keys:
        if key is not None and journaled.have(key):
            before += 1
            continue
        cut = -(-begin // SECTOR_BYTES) * SECTOR_BYTES
        crosses = cut == begin or cut < end
        return before > 0 and crosses and not any(key and journaled.have(key) for _, _, key in keys)
    return False


def _keys(used: memoryview) -> Iterator[tuple[int, int, Key | None]]:
    """Yields where each key begins and ends, and the key; at last what is none."""
    begin = BSET_HEADER.size
    while begin + HEAD_WORDS * WORD_BYTES <= len(used):
        head = int.from_bytes(used[begin : begin + WORD_BYTES], "little")
        end = begin + (HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)) * WORD_BYTES
        try:
            key = parse_keys(used[begin:end], "key")[0] if HIGH_BIT.get(head) and end <= len(used) else None
        except FormatError:
            key = None
        yield begin, end, key
        if key is None:
            return
        begin = end
