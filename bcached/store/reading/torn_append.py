# SPDX-License-Identifier: GPL-2.0-only
"""Whether a bset with a wrong checksum, the last of its node, is an append that a power cut interrupted.

Then nothing is lost: a leaf's keys are in the journal, and an interior node's change was not complete. If the
bset was damaged later, the journal may have its keys no longer, and the old nodes may be no longer in use.
Sectors tell one from the other, for each is written whole or not at all:

1. The first one, with the header, was written. So a bset of one sector is not torn, and one of several has
   only keys there that were being written: each is in the journal, or is what a journaled key left of one in
   an older bset of the node (kernel: bch_extent_insert_fixup inserts that again).
2. Of each of the others the same holds, or nothing of it was written: it has no such keys, or those of an
   earlier write that was interrupted. So nothing else is between two such keys.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from bcached.errors import FormatError
from bcached.format.bkey import (
    CHECK_DEVICE,
    COUNT_LIMIT,
    COUNT_SHIFT,
    HEAD_WORDS,
    HIGH_BIT,
    WORD_BYTES,
    parse_keys,
)
from bcached.format.bset import BSET_HEADER
from bcached.keys import Key
from bcached.state.index.keys.interior_keys import position_of
from bcached.store.btree.node_reader import NodeFound
from bcached.units import SECTOR_BYTES

ONE_POINTER_BYTES = (HEAD_WORDS + 1) * WORD_BYTES

# Where a key has its data: volume, dirty, device, gen, and how far the sectors of both are apart.
Mapping = tuple[int, bool, int, int, int]


class MappedSectors:
    """Which sectors of volumes some keys map to which of the devices. The keys are taken when it is asked."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = keys

    @cached_property
    def _ranges(self) -> dict[Mapping, list[tuple[int, int]]]:
        found: dict[Mapping, list[tuple[int, int]]] = {}
        for key in self._keys:
            for mapping in _mappings(key):
                found.setdefault(mapping, []).append((key.offset, key.end))
        return found

    def have(self, key: Key, more: "MappedSectors | None" = None) -> bool:
        """Whether every sector of a key is mapped as the key does it, by these keys or by more."""
        return all(
            _cover(self.ranges(mapping) + (more.ranges(mapping) if more else []), key.offset, key.end)
            for mapping in _mappings(key)
        )

    def ranges(self, mapping: Mapping) -> list[tuple[int, int]]:
        """Returns the ranges that are mapped so."""
        return self._ranges.get(mapping, [])


def _mappings(key: Key) -> Iterator[Mapping]:
    """Yields what a key maps its sectors to: for one without pointers, to nothing."""
    if not key.pointers:
        yield key.inode, False, -1, 0, 0
    for pointer in key.pointers:
        yield key.inode, key.dirty, pointer.device, pointer.gen, pointer.sector - key.offset


def _cover(ranges: list[tuple[int, int]], offset: int, end: int) -> bool:
    for first, behind in sorted(ranges):
        if first <= offset < behind:
            offset = behind
    return offset >= end


class PlacedKey(NamedTuple):
    """A key of a bset, and its bytes there; None for what is no key, which is the last."""

    begin: int
    end: int
    key: Key | None


def placed_keys(used: memoryview) -> Iterator[PlacedKey]:
    """Yields the keys of a bset, and at last what is none."""
    begin = BSET_HEADER.size
    while begin + HEAD_WORDS * WORD_BYTES <= len(used):
        head = int.from_bytes(used[begin : begin + WORD_BYTES], "little")
        end = begin + (HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)) * WORD_BYTES
        try:
            key = parse_keys(used[begin:end], "key")[0] if HIGH_BIT.get(head) and end <= len(used) else None
        except FormatError:
            key = None
        yield PlacedKey(begin, end, key)
        if key is None:
            return
        begin = end


def may_be_torn(node: NodeFound, journaled: MappedSectors) -> bool:
    """Whether the last bset of a node, whose checksum is wrong, may be an append that was interrupted."""
    used = memoryview(node.torn)
    if len(used) <= SECTOR_BYTES:
        return False
    older = MappedSectors(node.all_keys())
    was_written: dict[int, list[bool]] = {}  # by sector: whether its keys are of the append
    for placed in placed_keys(used):
        sector = placed.begin // SECTOR_BYTES
        if placed.key is None:
            verdicts = was_written.setdefault(sector, [])
            verdicts.append(False)
            behind = used[placed.begin + WORD_BYTES : (sector + 1) * SECTOR_BYTES]
            verdicts.append(any(_is_of_append(key, node, journaled, older) for key in _keys_within(behind)))
        elif placed.end <= (sector + 1) * SECTOR_BYTES:  # else half of it may be what was there before
            was_written.setdefault(sector, []).append(_is_of_append(placed.key, node, journaled, older))
    return all(was_written.pop(0, [False])) and not any(map(_is_damaged, was_written.values()))


def _is_damaged(were_written: list[bool]) -> bool:
    """Whether a sector has something else between keys of the append."""
    if True not in were_written:
        return False
    begin, end = were_written.index(True), len(were_written) - were_written[::-1].index(True)
    return not all(were_written[begin:end])


def _keys_within(raw: memoryview) -> Iterator[Key]:
    """Yields all that may be a key with one pointer, at any word."""
    for begin in range(0, len(raw) - ONE_POINTER_BYTES + 1, WORD_BYTES):
        head = int.from_bytes(raw[begin : begin + WORD_BYTES], "little")
        if HIGH_BIT.get(head) and head >> COUNT_SHIFT & COUNT_LIMIT == 1:
            with suppress(FormatError):
                yield from parse_keys(raw[begin : begin + ONE_POINTER_BYTES], "key")


def _is_of_append(key: Key, node: NodeFound, journaled: MappedSectors, older: MappedSectors) -> bool:
    """Whether a key may be one of an append to a node: for an interior one that is not known."""
    if node.level:
        return True
    is_placeholder = any(pointer.device == CHECK_DEVICE for pointer in key.pointers)  # it is in no journal
    return node.low < position_of(key) <= node.high and (is_placeholder or journaled.have(key, older))
