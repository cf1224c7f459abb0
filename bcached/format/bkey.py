# SPDX-License-Identifier: GPL-2.0-only
"""Keys as they are on disk: two words and a word for each pointer.

    high  63 always set   60-62 pointers   56-57 csum, 0   36 dirty   20-35 sectors   0-19 inode
    low   the *end* of the extent, in sectors (bcached.keys.Key holds its start)
    ptr   51-62 device    8-50 sector on the device         0-7 gen

A key with no pointers deletes what it covers. A pointer to device 0xfff is a placeholder that holds no data.
Keys of nodes and of the uuid table use the same format: low is the position (the highest key a node may
hold), the sector count is the node's size, so their start may be negative. A key in an interior node at
position 0:0 names a node that was freed, with the gen that its bucket has since.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bcached.errors import BadField
from bcached.format.bits import BitField
from bcached.format.checksum import Buffer
from bcached.keys import INODE_MAX, KEY_SECTORS_MAX, POINTERS_MAX, Key, Pointer

HIGH_BIT = BitField(63, 1)
KEY_PTRS = BitField(60, 3)
KEY_CSUM = BitField(56, 2)
KEY_DIRTY = BitField(36, 1)
KEY_SIZE = BitField(20, 16)
KEY_INODE = BitField(0, 20)

PTR_DEV = BitField(51, 12)
PTR_OFFSET = BitField(8, 43)
PTR_GEN = BitField(0, 8)

WORD_BYTES = 8
HEAD_WORDS = 2
PADDED_KEY_BYTES = 64  # BKEY_PADDED: the space of a key in a journal entry's header
END_MAX = (1 << 63) - 1  # kernel: MAX_KEY_OFFSET; positions are compared by their signed difference
CHECK_DEVICE = PTR_DEV.limit  # PTR_CHECK_DEV

# Keys are packed and parsed by the million: their fields are extracted inline, not by calls.
DEVICE_SHIFT = PTR_DEV.shift
SECTOR_SHIFT, SECTOR_LIMIT = PTR_OFFSET.shift, PTR_OFFSET.limit
GEN_LIMIT = PTR_GEN.limit
assert PTR_GEN.shift == KEY_INODE.shift == 0
assert KEY_INODE.limit == INODE_MAX
assert KEY_SIZE.limit == KEY_SECTORS_MAX
assert (HEAD_WORDS + POINTERS_MAX) * WORD_BYTES == PADDED_KEY_BYTES
assert KEY_INODE.limit == INODE_MAX
assert KEY_SIZE.limit == KEY_SECTORS_MAX
assert (HEAD_WORDS + POINTERS_MAX) * WORD_BYTES == PADDED_KEY_BYTES
COUNT_SHIFT, COUNT_LIMIT = KEY_PTRS.shift, KEY_PTRS.limit
SIZE_SHIFT = KEY_SIZE.shift
HIGH_MASK, DIRTY_MASK, CSUM_MASK = HIGH_BIT.mask, KEY_DIRTY.mask, KEY_CSUM.mask

NAME = "key"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What pointers must lie in: the buckets of the set's members."""

    bucket_sectors: int
    first_bucket: int
    bucket_counts: tuple[int, ...]  # by member


def pointer_word(pointer: Pointer) -> int:
    """The word of a pointer; the first one of a node's key also begins the node's checksums."""
    device, sector, gen = pointer.device, pointer.sector, pointer.gen
    assert 0 <= gen <= GEN_LIMIT
    assert 0 <= sector <= SECTOR_LIMIT
    assert 0 <= device <= CHECK_DEVICE
    return device << DEVICE_SHIFT | sector << SECTOR_SHIFT | gen


def parse_pointer(word: int) -> Pointer:
    """The pointer in a word."""
    return Pointer(word >> DEVICE_SHIFT & CHECK_DEVICE, word >> SECTOR_SHIFT & SECTOR_LIMIT, word & GEN_LIMIT)


def key_words(key: Key) -> int:
    """Words the key takes on disk."""
    return HEAD_WORDS + len(key.pointers)


def pack_key(key: Key) -> bytes:
    """The bytes of a key."""
    assert len(key.pointers) <= POINTERS_MAX
    assert 0 <= key.end <= END_MAX
    high = head_word(key.inode, key.sectors, key.dirty, len(key.pointers))
    words = [high, key.end, *map(pointer_word, key.pointers)]
    return struct.pack(f"<{len(words)}Q", *words)


def head_word(inode: int, sectors: int, dirty: bool, pointer_count: int) -> int:
    """The high word of a key."""
    assert 0 <= inode <= INODE_MAX
    assert 0 <= sectors <= KEY_SECTORS_MAX
    head = HIGH_MASK | pointer_count << COUNT_SHIFT | sectors << SIZE_SHIFT | inode
    return head | DIRTY_MASK if dirty else head


def key_of_words(head: int, end: int, words: Sequence[int]) -> Key:
    """The key of a high word, an end and pointer words that are known to be good."""
    sectors = head >> SIZE_SHIFT & KEY_SECTORS_MAX
    if len(words) == 1:  # nearly all keys: saves a call
        (word,) = words
        pointer = Pointer(
            word >> DEVICE_SHIFT & CHECK_DEVICE, word >> SECTOR_SHIFT & SECTOR_LIMIT, word & GEN_LIMIT
        )
        return Key(head & INODE_MAX, end - sectors, sectors, head & DIRTY_MASK != 0, (pointer,))
    pointers = tuple(map(parse_pointer, words))
    return Key(head & INODE_MAX, end - sectors, sectors, head & DIRTY_MASK != 0, pointers)


def pack_padded_key(key: Key) -> bytes:
    """The bytes of a key, padded to the 64 that journal entries give it."""
    return pack_key(key).ljust(PADDED_KEY_BYTES, b"\0")


def parse_key(raw: Buffer, offset: int, where: str) -> tuple[Key, int]:
    """The key at offset in raw and the bytes it takes; where says what raw is."""
    words = memoryview(raw)[offset : offset + PADDED_KEY_BYTES]
    whole = len(words) // WORD_BYTES
    key = _key_at(struct.unpack_from(f"<{whole}Q", words), 0, where)
    return key, key_words(key) * WORD_BYTES


def parse_padded_key(raw: Buffer, offset: int, where: str) -> Key:
    """The key in the 64 bytes at offset of raw."""
    return parse_key(raw, offset, where)[0]


def pack_keys(keys: tuple[Key, ...]) -> bytes:
    """Keys one behind the other, as in bsets and journal entries."""
    words: list[int] = []
    for key in keys:
        pointers = key.pointers
        assert len(pointers) <= POINTERS_MAX
        end = key.end
        assert 0 <= end <= END_MAX
        words += (head_word(key.inode, key.sectors, key.dirty, len(pointers)), end)
        words += map(pointer_word, pointers)
    return pack_key_words(words)


def pack_key_words(words: Sequence[int]) -> bytes:
    """The words of keys, one behind the other."""
    return struct.pack(f"<{len(words)}Q", *words)


def parse_keys(raw: Buffer, where: str) -> tuple[Key, ...]:
    """All the keys that fill raw, one behind the other."""
    if len(raw) % WORD_BYTES:
        raise BadField(NAME, f"{where}, size", f"whole words of {WORD_BYTES} bytes", f"{len(raw)} bytes")
    words = struct.unpack(f"<{len(raw) // WORD_BYTES}Q", raw)
    keys, index = [], 0
    while index < len(words):
        key = _key_at(words, index, where)
        keys.append(key)
        index += key_words(key)
    return tuple(keys)


def _key_at(words: tuple[int, ...], index: int, where: str) -> Key:
    high, end = words[index : index + HEAD_WORDS] if index + HEAD_WORDS <= len(words) else (0, -1)
    count = high >> COUNT_SHIFT & COUNT_LIMIT
    first = index + HEAD_WORDS
    whole = first + count <= len(words)
    if not (whole and count <= POINTERS_MAX and high & CSUM_MASK == 0 and 0 <= end <= END_MAX):
        raise _bad_key(words, index, where)
    return key_of_words(high, end, words[first : first + count])


def _bad_key(words: tuple[int, ...], index: int, where: str) -> BadField:
    """Returns what is wrong with the key at index; not inlined in the parser, which runs for every key.

    1. No space for a head. 2. Too many pointers. 3. Pointers beyond the end. 4. A csum. 5. A high offset.
    """
    here, left = f"{where}, word {index}", len(words) - index
    if left < HEAD_WORDS:
        return BadField(NAME, here, f"{HEAD_WORDS} words or more", f"{left} to the end")
    high, end = words[index], words[index + 1]
    count = KEY_PTRS.get(high)
    if count > POINTERS_MAX:
        return BadField(NAME, f"{here}, pointers", f"at most {POINTERS_MAX}", count)
    if HEAD_WORDS + count > left:
        return BadField(NAME, f"{here}, pointers", f"at most {left - HEAD_WORDS} to the end", count)
    if KEY_CSUM.get(high):
        return BadField(NAME, f"{here}, csum", 0, KEY_CSUM.get(high))
    return BadField(NAME, f"{here}, offset", f"at most {END_MAX:#x}", f"{end:#x}")


def check_extent(key: Key, bounds: Bounds, where: str) -> None:
    """Refuse a leaf's key that is not completely in one bucket of the set. One of no sectors is ignored."""
    if key.sectors == 0:
        return
    if key.offset < 0:
        raise BadField("extent", f"{where}, start", "at least 0", key.offset)
    _check_pointers("extent", key, bounds, where)


def check_node_key(key: Key, bounds: Bounds, where: str) -> None:
    """Refuse a key that cannot be that of a btree node or of the uuid table."""
    if not key.pointers:
        raise BadField("node key", f"{where}, pointers", "at least 1", 0)
    if key.sectors == 0:
        raise BadField("node key", f"{where}, sectors", "at least 1", 0)
    if key.dirty:
        raise BadField("node key", f"{where}, dirty", "not dirty", "dirty")
    if any(pointer.device >= len(bounds.bucket_counts) for pointer in key.pointers):
        raise BadField("node key", f"{where}, device", f"below {len(bounds.bucket_counts)}", key.pointers)
    _check_pointers("node key", key, bounds, where)


def is_available(pointer: Pointer) -> bool:
    """Whether the pointer names a device: a placeholder does not."""
    return pointer.device != CHECK_DEVICE


def _check_pointers(structure: str, key: Key, bounds: Bounds, where: str) -> None:
    for pointer in filter(is_available, key.pointers):
        members = len(bounds.bucket_counts)
        # Kernel: since 5.10 uses its only device whatever the number. bcached treats a wrong one as damage.
        if pointer.device >= members:
            raise BadField(structure, f"{where}, device", f"below {members}", pointer.device)
        bucket, within = divmod(pointer.sector, bounds.bucket_sectors)
        if within + key.sectors > bounds.bucket_sectors:
            expected = f"an end inside its bucket of {bounds.bucket_sectors} sectors"
            raise BadField(structure, f"{where}, sectors", expected, f"{within} + {key.sectors}")
        if bucket < bounds.first_bucket:
            raise BadField(structure, f"{where}, bucket", f"at least {bounds.first_bucket}", bucket)
        count = bounds.bucket_counts[pointer.device]
        if bucket >= count:
            raise BadField(structure, f"{where}, bucket", f"below {count}", bucket)
