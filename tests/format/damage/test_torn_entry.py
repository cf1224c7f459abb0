# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace
from random import Random

import pytest

from bcached.format.damage.torn_entry import is_cut_off
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer

MAGIC = 0x1234
NOWHERE = Key(0, 0, 0, False, ())
BEFORE = JournalEntry(10, 5, NOWHERE, NOWHERE, 0, (3,) + (0,) * 7)
KEYS = tuple(Key(0, 100 * n, 8, True, (Pointer(0, 4096 + 8 * n, n % 7),)) for n in range(90))
ENTRY = replace(BEFORE, seq=11, last_seq=7, keys=KEYS)
RAW = ENTRY.pack(MAGIC, 4096)
USED = 240 + 24 * len(KEYS)


def cut(byte: int, rest: bytes = b"") -> bytes:
    """The entry as written up to a byte, and then what was there before."""
    return RAW[:byte] + rest.ljust(len(RAW) - byte, b"\0")


@pytest.mark.parametrize("byte", range(512, USED, 512))
def test_an_entry_of_which_the_last_sectors_are_zeros_was_cut_off(byte: int) -> None:
    assert is_cut_off(cut(byte), MAGIC, BEFORE)


def test_so_was_one_that_ends_inside_of_a_sector_but_the_first() -> None:
    assert is_cut_off(cut(1000), MAGIC, BEFORE)
    for byte in (240, 248, 264, 280, 504):
        assert not is_cut_off(cut(byte), MAGIC, BEFORE), byte
    of_one_sector = replace(ENTRY, keys=KEYS[:8]).pack(MAGIC, 512)
    assert not is_cut_off(of_one_sector[:400].ljust(512, b"\0"), MAGIC, BEFORE)


def test_so_was_one_of_which_less_is_lacking_than_the_header_of_what_is_there() -> None:
    raw = replace(ENTRY, keys=KEYS[:12]).pack(MAGIC, 512)
    assert len(raw) - 512 == 512
    older = replace(BEFORE, seq=3, last_seq=1).pack(MAGIC, 512)
    assert is_cut_off(raw[:512] + older, MAGIC, BEFORE)
    assert not is_cut_off(raw[:512] + older[:500].ljust(1024, b"\xff"), MAGIC + 1, BEFORE)


def test_so_was_one_behind_which_an_older_entry_begins() -> None:
    older = replace(BEFORE, seq=3, last_seq=1, keys=KEYS[:8]).pack(MAGIC, 512)
    assert is_cut_off(cut(1024, older), MAGIC, BEFORE)
    assert not is_cut_off(cut(1024, replace(BEFORE, seq=12).pack(MAGIC, 512)), MAGIC, BEFORE)


def test_zeros_in_front_of_an_older_entry_were_there_before_as_well() -> None:
    older = replace(BEFORE, seq=3, last_seq=1).pack(MAGIC, 512)
    rest = bytes(1024) + older
    assert is_cut_off(cut(512, rest), MAGIC, BEFORE)
    changed = bytearray(cut(512, rest))
    changed[384:392] = b"\x55" * 8
    assert not is_cut_off(changed, MAGIC, BEFORE)
    few = replace(ENTRY, keys=KEYS[:32]).pack(MAGIC, 1024)  # whole, but for the number of its keys
    assert len(few) == 2 * 512
    changed = bytearray(few + older)
    changed[28:32] = (4 * 33).to_bytes(4, "little")
    assert not is_cut_off(changed, MAGIC, BEFORE)


def test_a_whole_entry_was_not_nor_one_of_another_set_or_seq() -> None:
    assert not is_cut_off(RAW, MAGIC, BEFORE)
    assert not is_cut_off(cut(1024), MAGIC + 1, BEFORE)
    assert not is_cut_off(cut(1024), MAGIC, replace(BEFORE, seq=9))
    assert not is_cut_off(replace(ENTRY, keys=()).pack(MAGIC), MAGIC, BEFORE)
    assert not is_cut_off(b"", MAGIC, BEFORE)


def test_what_is_damaged_in_any_other_way_was_not_cut_off() -> None:
    random = Random(1)
    for word in range(USED // 8):
        changed = bytearray(RAW)
        changed[8 * word : 8 * word + 8] = random.randbytes(8)
        assert not is_cut_off(changed, MAGIC, BEFORE), word


@pytest.mark.parametrize("count", [271, 300, 480])
def test_nor_was_one_whose_number_of_keys_is_wrong(count: int) -> None:
    changed = bytearray(RAW)
    changed[28:32] = count.to_bytes(4, "little")
    assert not is_cut_off(changed, MAGIC, BEFORE)
