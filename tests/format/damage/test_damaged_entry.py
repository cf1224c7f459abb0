# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from bcached.format.bkey import END_MAX, Bounds
from bcached.format.damage.damaged_entry import is_damaged
from bcached.format.jset import JSET_BYTES, JournalEntry
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.units import SECTOR_BYTES

MAGIC = 0x1234
BOUNDS = Bounds(bucket_sectors=128, first_bucket=2, bucket_counts=(1000,))
UUIDS = Key(0, -128, 128, False, (Pointer(0, 128 * 10, 1),))
ROOT = Key(INODE_MAX, END_MAX - 128, 128, False, (Pointer(0, 128 * 11, 1),))
BEFORE = JournalEntry(10, 5, UUIDS, ROOT, 0, (3,) + (0,) * 7)
SECTORS = 4


def keys(count: int, first: int = 0, deletions: frozenset[int] = frozenset()) -> tuple[Key, ...]:
    """Keys of eight sectors of a volume, some of them deletions."""
    return tuple(
        Key(0, 100 * n, 8, True, () if n in deletions else (Pointer(0, 4096 + 8 * n, n % 7),))
        for n in range(first, first + count)
    )


def packed(entry: JournalEntry) -> bytes:
    return bytes(entry.pack(MAGIC, SECTOR_BYTES))


NEXT = replace(BEFORE, seq=11, last_seq=7, keys=keys(70))
RAW = packed(NEXT)
WITH_DELETIONS = packed(replace(NEXT, keys=keys(71, deletions=frozenset((5, 20, 60)))))
assert len(RAW) == len(WITH_DELETIONS) == SECTORS * SECTOR_BYTES


def judged(raw: bytes, before: JournalEntry = BEFORE) -> bool:
    return is_damaged(raw.ljust(4096, b"\0"), MAGIC, before, BOUNDS)


def older_contents() -> Iterator[bytes]:
    """What may have been where an entry was to be written."""
    older = replace(BEFORE, seq=3, last_seq=1, keys=keys(140, 500))
    with_deletions = packed(replace(older, keys=keys(140, 500, frozenset(range(500, 640, 3)))))
    for raw in (packed(older), with_deletions, packed(replace(older, keys=keys(60, 500))).ljust(8192, b"\0")):
        yield from (raw[begin : begin + len(RAW)] for begin in range(0, 3 * SECTOR_BYTES, SECTOR_BYTES))
    yield bytes(len(RAW))
    yield Random(1).randbytes(len(RAW))
    yield packed(replace(NEXT, keys=keys(40, 200))).ljust(len(RAW), b"\0")  # an earlier attempt
    yield packed(replace(BEFORE, seq=3, last_seq=1)) * SECTORS


@pytest.mark.parametrize("raw", [RAW, WITH_DELETIONS], ids=["keys", "deletions"])
def test_whichever_sectors_a_power_cut_left_out_it_is_not_called_damaged(raw: bytes) -> None:
    for number, old in enumerate(older_contents()):
        for written in product((False, True), repeat=SECTORS - 1):
            sectors = [
                (raw if is_new else old)[begin : begin + SECTOR_BYTES]
                for begin, is_new in zip(range(0, len(raw), SECTOR_BYTES), (True, *written), strict=True)
            ]
            torn = b"".join(sectors)
            assert torn == raw or not judged(torn), (number, written)


def test_an_entry_of_one_sector_with_a_wrong_checksum_is_damaged() -> None:
    for offset in (0, *range(24, JSET_BYTES + 24, 8)):
        raw = bytearray(packed(replace(NEXT, keys=keys(1))))
        raw[offset : offset + 8] = Random(offset).randbytes(8)
        assert judged(bytes(raw)), offset


def test_so_is_one_without_keys() -> None:
    raw = bytearray(packed(replace(NEXT, keys=())))
    for byte in (0, 8, 100, 239):
        assert judged(bytes(raw[:byte]) + b"\x55" + bytes(raw[byte + 1 :]))


def test_in_the_first_sector_of_several_nothing_may_be_wrong() -> None:
    random, missed = Random(2), []
    for word in range(SECTOR_BYTES // 8 - 1):
        raw = bytearray(RAW)
        raw[8 * word : 8 * word + 8] = random.randbytes(8)
        if not judged(bytes(raw)):
            missed.append(8 * word)
    # The checksum, the unused end of a key's 64 bytes, and heads of members that are not there tell nothing.
    told = {*range(8, 64, 8), *range(104, 128, 8), 168, 176, *range(240, 488, 8)}
    assert not told & set(missed)


def test_in_another_sector_a_key_that_is_none_between_others_is_damage() -> None:
    random, missed = Random(3), 0
    words = range(SECTOR_BYTES // 8, (JSET_BYTES + 24 * 70) // 8)
    for word in words:
        raw = bytearray(RAW)
        raw[8 * word : 8 * word + 8] = random.randbytes(8)
        missed += not judged(bytes(raw))
    assert missed < len(words) // 10, "those that are in two sectors, and numbers that could be right"


def test_one_wrong_bit_is_damage_wherever_it_is() -> None:
    for bit in range(16 * 8, 8 * (JSET_BYTES + 24 * 70), 997):
        raw = bytearray(RAW)
        raw[bit // 8] ^= 1 << bit % 8
        assert judged(bytes(raw)), bit


def test_what_is_no_entry_of_the_set_is_not_damaged() -> None:
    other = bytearray(RAW)
    other[8:16] = Random(4).randbytes(8)
    assert judged(bytes(other)), "only the magic is wrong"
    other[24:32] = Random(5).randbytes(8)
    assert not judged(bytes(other)), "nor is it an entry of another"
