# SPDX-License-Identifier: GPL-2.0-only
"""Sorted sets of keys. A btree node is a sequence of them, each begun at a block, later ones appended.

     0 csum (over what follows; version 1: begun with the first pointer word of the node's key)
     8 magic ^ set_magic    16 seq, random, the same in all bsets of a node    24 version u32
    28 words of keys u32    32 the keys, sorted

A block behind the last bset may hold leftovers of another node; only the seq distinguishes them.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.bkey import WORD_BYTES, pack_keys, parse_keys, pointer_word
from bcached.format.checksum import Buffer, crc64_seeded, crc64_we
from bcached.format.magic import BSET
from bcached.keys import Key
from bcached.units import SECTOR_BYTES

BSET_HEADER = struct.Struct("<QQQII")
assert BSET_HEADER.size == 32
MAGIC_OFFSET, SEQ_OFFSET = 8, 16
BSET_VERSION = 1  # BCACHE_BSET_VERSION
NAME = "bset"


@dataclass(frozen=True, slots=True)
class Bset:
    """One sorted set of keys."""

    seq: int
    keys: tuple[Key, ...]
    version: int = BSET_VERSION


@dataclass(frozen=True, slots=True)
class PlacedBset:
    """A bset and where in its node it was found."""

    offset_bytes: int
    blocks: int
    bset: Bset


@dataclass(frozen=True, slots=True)
class Frame:
    """A bset whose checksum is right, its keys not parsed yet."""

    offset_bytes: int
    blocks: int
    seq: int
    version: int
    keys: memoryview


def pack_bset(bset: Bset, node_key: Key, set_magic: int, block_bytes: int) -> bytes:
    """The bset as part of the node that node_key names, padded to whole blocks."""
    return pack_words(bset.seq, pack_keys(bset.keys), node_key, set_magic, block_bytes, bset.version)


def pack_words(
    seq: int, keys: bytes, node_key: Key, set_magic: int, block_bytes: int, version: int = BSET_VERSION
) -> bytes:
    """Returns the packed bset of keys that are packed already, padded to whole blocks."""
    assert 0 < seq < 1 << 64
    assert 0 <= version <= BSET_VERSION
    header = BSET_HEADER.pack(0, BSET ^ set_magic, seq, version, len(keys) // WORD_BYTES)
    used = header[8:] + keys
    packed = struct.pack("<Q", _checksum(used, version, node_key)) + used
    return packed.ljust(_round_up(len(packed), block_bytes), b"\0")


def read_bsets(
    raw: Buffer, node_key: Key, set_magic: int, block_bytes: int, where: str = "node"
) -> Iterator[PlacedBset]:
    """Yields the bsets of the node, oldest first. Raises FormatError at the first that is wrong.

    These are all of the kernel's checks, and two more: keys are in the order of their positions, and none is
    beyond the node's (Kernel: checks that of the last one only, and not in small nodes).
    """
    for frame in read_frames(raw, node_key, set_magic, block_bytes, where):
        here = f"{where}, byte {frame.offset_bytes}"
        keys = parse_keys(frame.keys, here)
        _check_order(keys, node_key, here)
        yield PlacedBset(frame.offset_bytes, frame.blocks, Bset(frame.seq, keys, frame.version))


def read_frames(
    raw: Buffer, node_key: Key, set_magic: int, block_bytes: int, where: str = "node"
) -> Iterator[Frame]:
    """Yields the bsets of the node without parsing keys, for a reader that does so in columns."""
    view = memoryview(raw)
    if not node_key.pointers:
        raise BadField("node", f"{where}, key", "at least 1 pointer", 0)
    if len(view) != node_key.sectors * SECTOR_BYTES or len(view) < max(block_bytes, BSET_HEADER.size):
        raise BadField("node", f"{where}, size", f"{node_key.sectors} sectors", f"{len(view)} bytes")
    seq = _seq_at(view, 0)
    if seq == 0:
        raise BadField(NAME, f"{where}, seq", "not 0", 0)
    offset = 0
    while offset + BSET_HEADER.size <= len(view) and _seq_at(view, offset) == seq:
        frame = _parse_frame(view, offset, node_key, set_magic, block_bytes, f"{where}, byte {offset}")
        if offset and not frame.keys:
            raise BadField(NAME, f"{where}, byte {offset}, keys", "at least 1 in a later bset", 0)
        yield frame
        offset += frame.blocks * block_bytes
    _refuse_strays(view, offset, seq, block_bytes, where)
    _refuse_changed_seqs(view, offset, seq, node_key, set_magic, block_bytes, where)


def is_last_bset(raw: Buffer, offset: int, block_bytes: int) -> bool:
    """Whether no bset of the node follows the one at offset: if its checksum is wrong, it may be torn.

    Its own length is not used: that may be the damage.
    """
    view = memoryview(raw)
    seq = _seq_at(view, offset)
    return not any(_seq_at(view, here) == seq for here in range(offset + block_bytes, len(view), block_bytes))


def bsets_behind(
    raw: Buffer, offset: int, node_key: Key, set_magic: int, block_bytes: int
) -> Iterator[PlacedBset]:
    """Yields the sound bsets of a node behind a damaged one at offset: each begins at a block.

    They have the node's seq. If the first bset is damaged that may be wrong, too; then the commonest counts.
    """
    view = memoryview(raw)
    frames: list[Frame] = []
    end = offset + block_bytes
    for here in range(offset + block_bytes, len(view) - BSET_HEADER.size + 1, block_bytes):
        if here < end:
            continue  # inside of the last one
        try:
            frame = _parse_frame(view, here, node_key, set_magic, block_bytes, NAME)
        except FormatError:
            continue
        frames.append(frame)
        end = here + frame.blocks * block_bytes
    seqs = Counter(frame.seq for frame in frames)
    seq = _seq_at(view, 0)
    if offset == 0 and frames and seq not in seqs:
        ((seq, _),) = seqs.most_common(1)
    for frame in frames:
        if frame.seq == seq:
            with suppress(BadField):
                keys = parse_keys(frame.keys, NAME)
                _check_order(keys, node_key, NAME)
                yield PlacedBset(frame.offset_bytes, frame.blocks, Bset(seq, keys, frame.version))


def claimed_bytes(raw: Buffer, offset: int) -> bytes:
    """Returns the bytes of a bset with a wrong checksum, as long as it claims to be."""
    view = memoryview(raw)
    words: int = BSET_HEADER.unpack_from(view, offset)[4]
    return bytes(view[offset : offset + BSET_HEADER.size + words * WORD_BYTES])


def claimed_keys(raw: Buffer, offset: int) -> tuple[Key, ...]:
    """Returns the keys that a bset with a wrong checksum seems to hold, as an estimate of the loss."""
    try:
        return parse_keys(memoryview(claimed_bytes(raw, offset))[BSET_HEADER.size :], NAME)
    except BadField:
        return ()


def _parse_frame(
    view: memoryview, offset: int, node_key: Key, set_magic: int, block_bytes: int, where: str
) -> Frame:
    csum, magic, seq, version, words = BSET_HEADER.unpack_from(view, offset)
    size_bytes = BSET_HEADER.size + words * WORD_BYTES
    if version > BSET_VERSION:
        raise BadField(NAME, f"{where}, version", f"at most {BSET_VERSION}", version)
    if offset + size_bytes > len(view):
        raise BadField(NAME, f"{where}, keys", f"an end by byte {len(view)} of the node", f"{words} words")
    if magic != BSET ^ set_magic:
        raise BadMagic(NAME, where, f"{BSET ^ set_magic:#018x}", f"{magic:#018x}")
    actual = _checksum(view[offset + 8 : offset + size_bytes], version, node_key)
    if actual != csum:
        raise BadChecksum(NAME, where, f"{actual:#018x}", f"{csum:#018x}")
    blocks = _round_up(size_bytes, block_bytes) // block_bytes
    return Frame(offset, blocks, seq, version, view[offset + BSET_HEADER.size : offset + size_bytes])


def _check_order(keys: tuple[Key, ...], node_key: Key, where: str) -> None:
    last = (0, 0)
    for key in keys:
        if key.sectors == 0:
            continue  # a key that was cut to nothing stays at its position
        position = (key.inode, key.end)
        if position < last:
            raise BadField(NAME, f"{where}, keys", "keys in order", f"{position} behind {last}")
        last = position
    if last > (node_key.inode, node_key.end):
        raise BadField(
            NAME, f"{where}, keys", f"none beyond the node's {node_key.inode}:{node_key.end}", last
        )


def _refuse_strays(view: memoryview, offset: int, seq: int, block_bytes: int, where: str) -> None:
    """Refuse a later block with this node's seq: a bset that the reader has missed."""
    words = np.frombuffer(view[offset:], dtype="<u8")
    strays = np.flatnonzero(words[SEQ_OFFSET // 8 :: block_bytes // 8] == seq)
    if strays.size:
        stray = offset + int(strays[0]) * block_bytes
        raise BadField("node", f"{where}, byte {stray}", "no bset behind a gap", f"seq {seq:#x}")


def _refuse_changed_seqs(
    view: memoryview, offset: int, seq: int, node_key: Key, set_magic: int, block_bytes: int, where: str
) -> None:
    """Refuse a later block whose checksum is right with this node's seq: a bset whose seq was changed.

    A former node's block has its own seq's checksum, and a torn append has the right seq or none at all.
    """
    words = np.frombuffer(view[offset:], dtype="<u8")
    bsets = np.flatnonzero(words[MAGIC_OFFSET // 8 :: block_bytes // 8] == BSET ^ set_magic)
    for block in bsets.tolist():
        here = offset + block * block_bytes
        csum, _, found, version, count = BSET_HEADER.unpack_from(view, here)
        size_bytes = BSET_HEADER.size + count * WORD_BYTES
        if version > BSET_VERSION or here + size_bytes > len(view):
            continue
        used = bytearray(view[here + MAGIC_OFFSET : here + size_bytes])
        used[SEQ_OFFSET - MAGIC_OFFSET : SEQ_OFFSET - MAGIC_OFFSET + 8] = seq.to_bytes(8, "little")
        if _checksum(used, version, node_key) == csum:
            raise BadField(
                NAME, f"{where}, byte {here}, seq", f"{seq:#x}, which its checksum is for", f"{found:#x}"
            )


def _seq_at(view: memoryview, offset: int) -> int:
    return int.from_bytes(view[offset + SEQ_OFFSET : offset + SEQ_OFFSET + 8], "little")


def _checksum(used: Buffer, version: int, node_key: Key) -> int:
    if version == BSET_VERSION:
        return crc64_seeded(used, pointer_word(node_key.pointers[0]))
    return crc64_we(used)


def _round_up(size_bytes: int, block_bytes: int) -> int:
    return -(-size_bytes // block_bytes) * block_bytes
