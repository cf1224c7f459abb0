# SPDX-License-Identifier: GPL-2.0-only
"""The gen of a btree node that no pointer names: its first bset's checksum is begun with it."""

from bcached.format.bkey import WORD_BYTES, pointer_word
from bcached.format.bset import BSET_HEADER, BSET_VERSION, MAGIC_OFFSET
from bcached.format.checksum import Buffer, crc64_seeded
from bcached.format.magic import BSET
from bcached.keys import Pointer

GEN_BITS = 8


def looks_like_node(raw: Buffer, set_magic: int) -> bool:
    """Whether a block begins as a node of the set does."""
    _, magic, seq, version, _ = BSET_HEADER.unpack_from(raw)
    return bool(magic == BSET ^ set_magic and seq and version == BSET_VERSION)


def may_be_bset(raw: Buffer, set_magic: int, seq: int) -> bool:
    """Whether a block has the magic of the set's bsets, or the seq of a node: the other may be damaged."""
    _, magic, found, _, _ = BSET_HEADER.unpack_from(raw)
    return bool(magic == BSET ^ set_magic or found == seq)


def gen_of_node(raw: Buffer, device: int, sector: int, set_magic: int) -> int | None:
    """Returns the gen with which the first bset in raw has the right checksum; None if there is none.

    The seed's bits change the checksum independently of each other, so nine checksums show all 256.
    """
    if not looks_like_node(raw, set_magic):
        return None
    csum, _, _, _, words = BSET_HEADER.unpack_from(raw)
    size_bytes = BSET_HEADER.size + words * WORD_BYTES
    if size_bytes > len(raw):
        return None
    used = memoryview(raw)[MAGIC_OFFSET:size_bytes]
    seed = pointer_word(Pointer(device, sector, 0))
    first = crc64_seeded(used, seed)
    effects = [crc64_seeded(used, seed ^ 1 << bit) ^ first for bit in range(GEN_BITS)]
    for gen in range(1 << GEN_BITS):
        found = first
        for bit, effect in enumerate(effects):
            found ^= effect if gen >> bit & 1 else 0
        if found == csum:
            return gen
    return None
