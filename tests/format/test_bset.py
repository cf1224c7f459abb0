# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.bkey import END_MAX, pack_key, pointer_word
from bcached.format.bset import Bset, claimed_keys, is_last_bset, pack_bset, read_bsets
from bcached.format.checksum import crc64_we
from bcached.format.magic import set_magic_of
from bcached.keys import INODE_MAX, Key, Pointer
from instruments.samples.format_samples import EXTENT, ROOT_KEY, SET_MAGIC, flipped, keys, sealed, with_field
from instruments.samples.read_back import parse_node

SEQ = 0x1111111111111111
NODE_BYTES = 512 * 512
SEED = pointer_word(ROOT_KEY.pointers[0])
SECOND = Key(3, 100, 8, False, (Pointer(0, 9000, 1),))
GOLDEN = Path(__file__).parent / "golden"
LISTED_BY_THE_KERNEL = [  # start, sectors, sector on the device, gen
    (21968, 7, 4711, 4),
    (21975, 31, 2304, 3),
    (22006, 11, 28277, 3),
    (26185, 3, 18656, 3),
    (26222, 1, 19744, 3),
]


def node(*bsets: Bset, block_bytes: int = 4096, node_bytes: int = NODE_BYTES) -> bytearray:
    written = b"".join(pack_bset(bset, ROOT_KEY, SET_MAGIC, block_bytes) for bset in bsets)
    return bytearray(written.ljust(node_bytes, b"\0"))


def parse(raw: bytes | bytearray, block_bytes: int = 4096) -> list[Bset]:
    return parse_node(raw, ROOT_KEY, SET_MAGIC, block_bytes, "here")


@pytest.mark.parametrize(
    ("keys_in_it", "checksum"), [((), 0x8C5EB0FA7B631549), ((EXTENT,), 0xC8073CB84B61FC59)]
)
def test_the_known_checksums(keys_in_it: tuple[Key, ...], checksum: int) -> None:
    raw = pack_bset(Bset(SEQ, keys_in_it), ROOT_KEY, SET_MAGIC, 512)
    assert int.from_bytes(raw[:8], "little") == checksum
    assert raw[8:32].hex() == "e5168caa6c490587" + "11" * 8 + "01000000" + f"{3 * len(keys_in_it):02x}000000"
    assert raw[32:].rstrip(b"\0") == b"".join(map(pack_key, keys_in_it)).rstrip(b"\0")
    assert len(raw) == 512


def test_the_checksum_begins_with_the_node_s_place_and_gen() -> None:
    raw = node(Bset(SEQ, (EXTENT,)))
    elsewhere = Key(INODE_MAX, END_MAX - 512, 512, False, (Pointer(0, 21504, 2),))
    with pytest.raises(BadChecksum):
        parse_node(raw, elsewhere, SET_MAGIC, 4096)


ordered_keys = st.lists(keys(), max_size=12).map(
    lambda row: tuple(sorted(row, key=lambda k: (k.inode, k.end)))
)


@given(st.lists(ordered_keys.filter(bool), max_size=5), ordered_keys, st.sampled_from([512, 1024, 4096]))
def test_a_node_comes_back(later: list[tuple[Key, ...]], first: tuple[Key, ...], block_bytes: int) -> None:
    bsets = [Bset(SEQ, row) for row in (first, *later)]
    assert parse(node(*bsets, block_bytes=block_bytes), block_bytes) == bsets


def test_the_old_version_has_the_plain_checksum() -> None:
    raw = node(Bset(SEQ, (EXTENT,), version=0))
    assert int.from_bytes(raw[:8], "little") == crc64_we(raw[8 : 32 + 24])
    assert parse(raw) == [Bset(SEQ, (EXTENT,), version=0)]


def test_leftovers_of_another_node_are_not_read() -> None:
    raw = node(Bset(SEQ, (EXTENT,)))
    raw[4096:8192] = pack_bset(Bset(SEQ + 1, (SECOND,)), ROOT_KEY, SET_MAGIC, 4096)
    assert parse(raw) == [Bset(SEQ, (EXTENT,))]


def test_a_bset_behind_a_gap_is_one_that_was_lost() -> None:
    raw = node(Bset(SEQ, (EXTENT,)))
    raw[12288:16384] = pack_bset(Bset(SEQ, (SECOND,)), ROOT_KEY, SET_MAGIC, 4096)
    with pytest.raises(BadField, match="node at here, byte 12288: expected no bset behind a gap"):
        parse(raw)


def test_a_flipped_bit_is_refused_wherever_it_is() -> None:
    raw = node(Bset(SEQ, (EXTENT,)), Bset(SEQ, (SECOND,)))
    for bit in range(8 * (32 + 24)):
        with pytest.raises(FormatError):
            parse(flipped(raw, bit))


def test_a_later_bset_that_tore_is_refused() -> None:
    raw = node(Bset(SEQ, (EXTENT,)), Bset(SEQ, (SECOND,)))
    raw[4096 + 40] ^= 1
    with pytest.raises(BadChecksum, match="bset at here, byte 4096"):
        parse(raw)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "error", "message"),
    [
        (8, "Q", 1, BadMagic, "bset at here, byte 0: expected 0x8705496caa8c16e5, found 0x0000000000000001"),
        (16, "Q", 0, BadField, "bset at here, seq: expected not 0, found 0"),
        (24, "I", 2, BadField, "bset at here, byte 0, version: expected at most 1, found 2"),
        (
            28,
            "I",
            32765,
            BadField,
            "byte 0, keys: expected an end by byte 262144 of the node, found 32765 words",
        ),
        (28, "I", 2**32 - 1, BadField, "byte 0, keys: expected an end by byte 262144 of the node"),
        (32, "Q", 0xF << 60, BadField, "key at here, byte 0, word 0, pointers: expected at most 6, found 7"),
        (40, "Q", 1 << 63, BadField, "key at here, byte 0, word 0, offset: expected at most"),
    ],
)
def test_each_field_that_cannot_be_is_named(
    offset: int, layout: str, value: int, error: type[FormatError], message: str
) -> None:
    raw = with_field(node(Bset(SEQ, (EXTENT,))), offset, layout, value)
    with pytest.raises(error) as caught:
        parse(sealed(raw, 32 + 24, SEED))
    assert message in str(caught.value)


def test_only_the_first_bset_may_be_empty() -> None:
    assert parse(node(Bset(SEQ, ()))) == [Bset(SEQ, ())]
    with pytest.raises(BadField, match="byte 4096, keys: expected at least 1 in a later bset, found 0"):
        parse(node(Bset(SEQ, ()), Bset(SEQ, ())))


def test_keys_out_of_order_are_refused() -> None:
    with pytest.raises(BadField, match="expected keys in order"):
        parse(node(Bset(SEQ, (SECOND, EXTENT))))


def test_what_is_left_of_a_key_cut_to_nothing_may_stand_anywhere() -> None:
    nothing = Key(0, 5, 0, False, (Pointer(0, 9000, 1),))
    assert parse(node(Bset(SEQ, (EXTENT, nothing)))) == [Bset(SEQ, (EXTENT, nothing))]


def test_a_key_beyond_the_node_s_is_refused() -> None:
    lower = Key(0, EXTENT.end - 512, 512, False, ROOT_KEY.pointers)
    assert parse_node(node(Bset(SEQ, (EXTENT,))), lower, SET_MAGIC, 4096) == [Bset(SEQ, (EXTENT,))]
    with pytest.raises(BadField, match="keys: expected none beyond the node's 0:137896"):
        parse_node(node(Bset(SEQ, (EXTENT, SECOND))), lower, SET_MAGIC, 4096)


def test_a_node_of_another_size_than_its_key_says_is_refused() -> None:
    with pytest.raises(BadField, match="node at here, size: expected 512 sectors, found 512 bytes"):
        parse(bytes(512))


def test_a_key_that_points_nowhere_has_no_node() -> None:
    with pytest.raises(BadField, match="key: expected at least 1 pointer"):
        parse_node(node(Bset(SEQ, ())), Key(0, 0, 512, False, ()), SET_MAGIC, 4096)


def test_a_node_full_to_the_last_byte_is_read() -> None:
    full = Bset(SEQ, (EXTENT,) * ((NODE_BYTES - 32) // 24))
    assert parse(node(full)) == [full]


@given(st.binary(max_size=600), st.integers(1, 3))
def test_random_bytes_are_refused(junk: bytes, sectors: int) -> None:
    key = Key(INODE_MAX, END_MAX - sectors, sectors, False, ROOT_KEY.pointers)
    with pytest.raises(FormatError):
        parse_node(junk.ljust(sectors * 512, b"\0"), key, SET_MAGIC, 512)


@given(st.integers(8, 32 + 47), st.binary(min_size=1, max_size=24))
def test_whatever_is_sealed_is_read_or_refused_cleanly(at: int, junk: bytes) -> None:
    key = Key(INODE_MAX, END_MAX - 2, 2, False, ROOT_KEY.pointers)
    raw = node(Bset(SEQ, (EXTENT, SECOND)), block_bytes=512, node_bytes=1024)
    raw[at : at + len(junk)] = junk
    words = int.from_bytes(raw[28:32], "little")
    try:
        bsets = parse_node(sealed(raw, 32 + 8 * words, SEED), key, SET_MAGIC, 512)
    except FormatError:
        return
    assert bsets[0].seq == int.from_bytes(raw[16:24], "little")


def test_a_node_the_kernel_wrote_is_read() -> None:
    """A leaf written once and appended to four times, leftovers behind; the kernel listed the keys below."""
    set_magic = set_magic_of(UUID("ad47af42-f172-48a6-92e4-e4dca44d059f"))
    node_key = Key(0, 26191, 32, False, (Pointer(0, 31808, 4),))
    raw = (GOLDEN / "node-kernel.bin").read_bytes()
    bsets = parse_node(raw, node_key, set_magic, 512)
    assert [len(bset.keys) for bset in bsets] == [307, 2, 25, 28, 6]
    found = {key for bset in bsets for key in bset.keys}
    for offset, sectors, sector, gen in LISTED_BY_THE_KERNEL:
        assert Key(0, offset, sectors, False, (Pointer(0, sector, gen),)) in found
    packed = b"".join(pack_bset(bset, node_key, set_magic, 512) for bset in bsets)
    assert len(packed) == 21 * 512
    assert packed[:8] == raw[:8]


def test_what_is_sound_comes_before_what_is_wrong_is_raised() -> None:
    raw = node(Bset(SEQ, (EXTENT,)), Bset(SEQ, (SECOND,)), Bset(SEQ, (EXTENT,)))
    raw[4096 + 40] ^= 1
    found = read_bsets(raw, ROOT_KEY, SET_MAGIC, 4096)
    first = next(found)
    assert (first.offset_bytes, first.blocks, first.bset.keys) == (0, 1, (EXTENT,))
    with pytest.raises(BadChecksum):
        next(found)


def test_only_the_last_bset_can_be_a_torn_append() -> None:
    raw = node(Bset(SEQ, (EXTENT,)), Bset(SEQ, (SECOND,)), Bset(SEQ, (EXTENT,)))
    assert [is_last_bset(raw, byte, 4096) for byte in (0, 4096, 8192)] == [False, False, True]


def test_a_damaged_bset_still_shows_its_keys_or_none() -> None:
    raw = node(Bset(SEQ, (EXTENT, SECOND)))
    raw[0] ^= 1
    assert claimed_keys(raw, 0) == (EXTENT, SECOND)
    raw[28:32] = b"\xff\xff\xff\xff"
    assert all(isinstance(key, Key) for key in claimed_keys(raw, 0))
    raw[28:32] = (4).to_bytes(4, "little")
    assert claimed_keys(raw, 0) == ()
