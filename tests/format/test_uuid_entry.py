# SPDX-License-Identifier: GPL-2.0-only
import struct
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadField
from bcached.format.uuid_entry import BURNT_UUID, UuidEntry, pack_table, parse_table, slots_with_leftovers
from bcached.format.volume_owner import EntryOwner
from instruments.samples.format_samples import uuid_entries

OWNED = EntryOwner(0x1234, is_group=True, others_read=True)
VOLUME = UuidEntry(UUID(bytes=bytes(range(16))), "vol", 1, 2, 3, flash_only=True, sectors=2048)


def test_every_field_stands_where_the_kernel_looks() -> None:
    raw = VOLUME.pack()
    assert raw[:16] == bytes(range(16))
    assert raw[16:48] == b"vol".ljust(32, b"\0")
    assert raw[48:64].hex() == "01000000020000000300000001000000"
    assert raw[64:72].hex() == "0008000000000000"
    assert raw[72:] == bytes(56)


def test_an_owner_stands_behind_what_the_kernel_knows() -> None:
    raw = replace(VOLUME, owner=OWNED).pack()
    assert raw[:72] == VOLUME.pack()[:72]
    assert raw[72:].hex() == b"bcdowner".hex() + "020000003412000001000000" + bytes(36).hex()


@pytest.mark.parametrize(
    ("byte", "value"),
    [(72, 0), (80, 0), (80, 3), (88, 2), (96, 1), (127, 1), (87, 0xFF)],
)
def test_what_is_nearly_an_owner_is_a_leftover(byte: int, value: int) -> None:
    raw = bytearray(replace(VOLUME, owner=EntryOwner(0xFFFFFF)).pack())
    raw[byte] = value
    assert parse_table(raw)[0] == VOLUME
    assert slots_with_leftovers(raw) == [0]


@pytest.mark.parametrize("owner", [None, OWNED])
def test_the_maker_stands_behind_the_owner_or_where_it_would_be(owner: EntryOwner | None) -> None:
    entry = replace(VOLUME, owner=owner, maker=1000)
    raw = entry.pack()
    kind = "020000003412000001000000" if owner else bytes(12).hex()
    assert raw[72:].hex() == b"bcdowner".hex() + kind + "e9030000" + bytes(32).hex()
    assert parse_table(raw) == [entry]
    assert slots_with_leftovers(raw) == []


def test_a_burnt_slot_may_keep_its_owner_and_a_free_one_has_none() -> None:
    burnt = replace(VOLUME, uuid=BURNT_UUID, owner=OWNED).pack()
    free = bytes(72) + burnt[72:]
    assert slots_with_leftovers(burnt + free) == [1]
    assert parse_table(burnt + free)[1] is None


@given(st.lists(st.none() | uuid_entries, max_size=20))
def test_a_table_comes_back_with_its_holes(entries: list[UuidEntry | None]) -> None:
    raw = pack_table(entries, 4096)
    assert len(raw) == 4096
    assert parse_table(raw) == entries + [None] * (32 - len(entries))


def test_a_burnt_slot_is_neither_free_nor_a_volume() -> None:
    burnt = replace(VOLUME, uuid=BURNT_UUID)
    raw = pack_table([burnt], 4096)
    assert raw[:16].hex() == "a03ef8ed3ee1b878c850fc5ecb16cd99"
    (entry, *rest) = parse_table(raw)
    assert entry == burnt
    assert entry.is_burnt
    assert not VOLUME.is_burnt
    assert set(rest) == {None}


def test_the_old_table_has_short_entries() -> None:
    raw = struct.pack("<16s32sIII4x", VOLUME.uuid.bytes, b"vol", 1, 2, 3).ljust(4096, b"\0")
    entries = parse_table(raw, version=0)
    assert len(entries) == 64
    assert entries[0] == replace(VOLUME, flash_only=False, sectors=0)


@pytest.mark.parametrize(("size", "version"), [(0, 1), (64, 1), (4095, 1), (32, 0), (0, 0)])
def test_a_table_of_a_broken_size_is_refused(size: int, version: int) -> None:
    with pytest.raises(BadField, match="uuid table at here, size: expected a multiple of"):
        parse_table(bytes(size), version, "here")


@given(st.binary(min_size=128, max_size=128), st.integers(0, 1))
def test_any_bytes_of_the_right_size_are_a_table(raw: bytes, version: int) -> None:
    """The table has no checksum: whoever reads it has nothing but the journal's word for it."""
    for entry in parse_table(raw, version):
        assert entry is None or parse_table(pack_table([entry], 128)) == [entry]


def test_what_does_not_fit_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        pack_table([VOLUME] * 2, 128)
    with pytest.raises(AssertionError):
        replace(VOLUME, uuid=UUID(int=0)).pack()


@given(st.lists(st.none() | uuid_entries, max_size=20))
def test_nothing_is_left_over_in_a_table_of_ours(entries: list[UuidEntry | None]) -> None:
    assert slots_with_leftovers(pack_table(entries, 4096)) == []


@pytest.mark.parametrize(("byte", "slots"), [(16, [0]), (71, [0]), (128 + 72, [1]), (128 + 71, [])])
def test_bytes_where_nobody_writes_any_are_leftovers(byte: int, slots: list[int]) -> None:
    raw = bytearray(pack_table([None, VOLUME], 4096))
    raw[byte] ^= 1
    assert slots_with_leftovers(raw) == slots
