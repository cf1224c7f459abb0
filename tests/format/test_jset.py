# SPDX-License-Identifier: GPL-2.0-only
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.bkey import END_MAX, pack_padded_key
from bcached.format.jset import (
    JSET_BYTES,
    JSET_BYTES_MAX,
    JournalEntry,
    claimed_seq,
    scan_journal_bucket,
    trace_entries,
)
from bcached.format.magic import set_magic_of
from bcached.keys import INODE_MAX, Key, Pointer
from instruments.samples.format_samples import (
    ENTRY,
    ENTRY_WITH_KEY,
    EXTENT,
    ROOT_KEY,
    SET_MAGIC,
    UUID_KEY,
    flipped,
    journal_entries,
    sealed,
    with_field,
)
from instruments.samples.read_back import parse_journal_bucket

GOLDEN = Path(__file__).parent / "golden"
BUCKET_BYTES = 16384


def parse(raw: bytes) -> JournalEntry:
    return JournalEntry.parse(raw, SET_MAGIC, "here")


def bucket(*entries: JournalEntry, block_bytes: int = 512) -> bytearray:
    written = b"".join(entry.pack(SET_MAGIC, block_bytes) for entry in entries)
    return bytearray(written.ljust(BUCKET_BYTES, b"\0"))


def found_in(raw: bytes | bytearray, block_bytes: int = 512) -> list[JournalEntry]:
    return [placed.entry for placed in parse_journal_bucket(raw, SET_MAGIC, block_bytes)]


def numbered(seq: int, key_count: int = 0) -> JournalEntry:
    return replace(ENTRY, seq=seq, keys=(EXTENT,) * key_count)


@pytest.mark.parametrize(
    ("entry", "checksum", "size"),
    [(ENTRY, 0x377DBEEE53E8DF33, 240), (ENTRY_WITH_KEY, 0xFC2D660190A836FA, 264)],
)
def test_the_known_checksums(entry: JournalEntry, checksum: int, size: int) -> None:
    raw = entry.pack(SET_MAGIC)
    assert int.from_bytes(raw[:8], "little") == checksum
    assert len(raw) == size


def test_every_field_stands_where_the_kernel_looks() -> None:
    raw = replace(ENTRY_WITH_KEY, level=2, seq=5, last_seq=3, prio_heads=tuple(range(10, 18))).pack(SET_MAGIC)
    assert raw[8:16].hex() == "224170b0d5204433"
    assert raw[16:40].hex() == "0500000000000000" + "01000000" + "03000000" + "0300000000000000"
    assert raw[40:104] == pack_padded_key(UUID_KEY)
    assert raw[104:168] == pack_padded_key(ROOT_KEY)
    assert raw[168:176].hex() == "0200000000000000"
    assert raw[176:240] == b"".join(head.to_bytes(8, "little") for head in range(10, 18))
    assert raw[240:264] == pack_padded_key(EXTENT)[:24]


@given(journal_entries(), st.sampled_from([1, 512, 4096]))
def test_an_entry_comes_back(entry: JournalEntry, block_bytes: int) -> None:
    raw = entry.pack(SET_MAGIC, block_bytes)
    assert len(raw) % block_bytes == 0
    assert parse(raw) == entry


def test_what_is_behind_the_last_key_means_nothing() -> None:
    raw = bytearray(ENTRY_WITH_KEY.pack(SET_MAGIC, 512))
    raw[264:] = b"\xff" * (512 - 264)
    assert parse(bytes(raw)) == ENTRY_WITH_KEY


def test_a_flipped_bit_is_refused_wherever_it_is() -> None:
    raw = ENTRY_WITH_KEY.pack(SET_MAGIC)
    for bit in range(8 * len(raw)):
        with pytest.raises(FormatError):
            parse(flipped(raw, bit))


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (16, "Q", 0, "journal entry at here, last_seq: expected 1 to seq 0, found 1"),
        (24, "I", 2, "journal entry at here, version: expected at most 1, found 2"),
        (28, "I", 2**32 - 1, "here, keys: expected an entry of at most 264 bytes, found 34359738600 bytes"),
        (28, "I", 4, "here, keys: expected an entry of at most 264 bytes, found 272 bytes"),
        (32, "Q", 3, "journal entry at here, last_seq: expected 1 to seq 2, found 3"),
        (32, "Q", 0, "journal entry at here, last_seq: expected 1 to seq 2, found 0"),
        (40, "Q", 7 << 60, "key at here, uuid_bucket, word 0, pointers: expected at most 6, found 7"),
        (48, "Q", 1 << 63, "key at here, uuid_bucket, word 0, offset: expected at most"),
        (104, "Q", 1 << 57, "key at here, btree_root, word 0, csum: expected 0, found 2"),
        (168, "H", 17, "journal entry at here, btree_level: expected at most 16, found 17"),
        (240, "Q", 5 << 60, "key at here, keys, word 0, pointers: expected at most 1 to the end, found 5"),
        (240, "Q", 0, "key at here, keys, word 2: expected 2 words or more, found 1 to the end"),
    ],
)
def test_each_field_that_cannot_be_is_named(offset: int, layout: str, value: int, message: str) -> None:
    raw = with_field(ENTRY_WITH_KEY.pack(SET_MAGIC), offset, layout, value)
    with pytest.raises(BadField) as caught:
        parse(sealed(raw, len(raw)))
    assert message in str(caught.value)


def test_another_set_s_entry_is_not_ours() -> None:
    with pytest.raises(BadMagic, match="journal entry at here: expected 0x334420d5b0704122"):
        JournalEntry.parse(ENTRY.pack(SET_MAGIC + 1), SET_MAGIC, "here")


def test_a_wrong_checksum_is_named_with_the_right_one() -> None:
    with pytest.raises(BadChecksum, match="expected 0x377dbeee53e8df33, found 0x0000000000000001"):
        parse(with_field(ENTRY.pack(SET_MAGIC), 0, "Q", 1))


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse(raw)


@given(st.integers(8, 263), st.binary(min_size=1, max_size=24))
def test_whatever_is_sealed_is_read_or_refused_cleanly(at: int, junk: bytes) -> None:
    raw = bytearray(ENTRY_WITH_KEY.pack(SET_MAGIC, 512))
    raw[at : at + len(junk)] = junk
    used = JSET_BYTES + 8 * int.from_bytes(raw[28:32], "little")
    resealed = sealed(raw, used)
    for read in (parse, found_in):
        with suppress(FormatError):
            read(resealed)


# A whole bucket of the journal.


def test_entries_are_found_one_behind_the_other_with_their_places() -> None:
    raw = bucket(numbered(5), numbered(6, 20), numbered(7))
    placed = parse_journal_bucket(raw, SET_MAGIC, 512)
    assert [(p.entry.seq, p.offset_bytes, p.blocks) for p in placed] == [(5, 0, 1), (6, 512, 2), (7, 1536, 1)]


def test_a_bucket_never_written_holds_nothing() -> None:
    assert found_in(bytes(BUCKET_BYTES)) == []


def test_an_entry_behind_a_gap_is_never_found() -> None:
    assert found_in(bytes(512) + bytes(bucket(numbered(5)))[: BUCKET_BYTES - 512]) == []


def test_a_torn_entry_ends_the_bucket() -> None:
    raw = bucket(numbered(5), numbered(6, 20), numbered(7))
    raw[512 + 600] ^= 1
    assert found_in(raw) == [numbered(5)]


def test_entries_of_the_ring_s_last_turn_are_found_behind_the_new_ones() -> None:
    raw = bucket(numbered(50), numbered(3))
    assert [entry.seq for entry in found_in(raw)] == [50, 3]


def test_an_entry_may_fill_the_bucket_to_its_end_but_not_leave_it() -> None:
    raw = bucket(numbered(5, (BUCKET_BYTES - 240) // 24))
    assert len(found_in(raw)) == 1
    assert found_in(raw[: BUCKET_BYTES - 512]) == []


def test_no_entry_is_longer_than_the_kernel_s_buffer() -> None:
    most = (JSET_BYTES_MAX - JSET_BYTES) // 24
    assert len(numbered(5, most).pack(SET_MAGIC)) <= JSET_BYTES_MAX
    with pytest.raises(AssertionError):
        numbered(5, most + 1).pack(SET_MAGIC)
    too_long = bytearray(with_field(bytes(1 << 16), 28, "I", (JSET_BYTES_MAX - JSET_BYTES) // 8 + 1))
    too_long[8:16] = ENTRY.pack(SET_MAGIC)[8:16]
    raw = sealed(too_long, JSET_BYTES_MAX + 8)
    with pytest.raises(BadField, match="expected an entry of at most 32768 bytes, found 32776 bytes"):
        parse(raw)
    assert found_in(raw) == []


def test_an_entry_that_is_whole_and_makes_no_sense_is_an_error() -> None:
    raw = bytearray(bucket(numbered(5)))
    raw[32:40] = (9).to_bytes(8, "little")
    with pytest.raises(BadField, match="journal bucket, byte 0, last_seq"):
        found_in(sealed(raw, JSET_BYTES))


@given(st.binary(max_size=2000))
def test_random_bytes_behind_an_entry_do_no_harm(junk: bytes) -> None:
    assert found_in(ENTRY.pack(SET_MAGIC, 512) + junk) == [ENTRY]


def test_a_bucket_the_kernel_wrote_is_read() -> None:
    """The head of the bucket it wrote to last; the expected places are those it held in memory then."""
    raw = (GOLDEN / "journal-kernel.bin").read_bytes()
    set_magic = set_magic_of(UUID("621407c8-dfa2-458f-87b4-eba2f3dce2e7"))
    placed = parse_journal_bucket(raw, set_magic, 512)
    assert [p.entry.seq for p in placed] == [256, 257, 258, 259, 260]
    assert [len(p.entry.keys) for p in placed] == [8, 2, 0, 4, 5]
    newest = placed[-1].entry
    assert newest.last_seq == 252
    assert newest.level == 0
    assert newest.root == Key(INODE_MAX, END_MAX - 128, 128, False, (Pointer(0, 1408, 1),))
    assert newest.uuid_bucket == Key(0, -128, 128, False, (Pointer(0, 3456, 1),))
    assert newest.prio_heads == (17, 0, 0, 0, 0, 0, 0, 0)
    assert newest.keys[-1] == Key(0, 68027, 74, False, ())
    for p in placed:
        packed = p.entry.pack(set_magic)
        assert raw[p.offset_bytes : p.offset_bytes + len(packed)] == packed


def test_a_scan_says_why_it_ends_and_raises_nothing() -> None:
    raw = bytearray(bucket(numbered(5), numbered(6)))
    found = scan_journal_bucket(raw, SET_MAGIC, 512, "here")[1]
    assert isinstance(found, BadMagic)
    assert found.__traceback__ is None  # its frames have the whole bucket
    raw[512] ^= 1
    placed, end = scan_journal_bucket(raw, SET_MAGIC, 512, "here")
    assert [p.entry.seq for p in placed] == [5]
    assert isinstance(end, BadChecksum)
    nonsense = bytearray(bucket(numbered(5)))
    nonsense[32:40] = (9).to_bytes(8, "little")
    placed, end = scan_journal_bucket(sealed(nonsense, JSET_BYTES), SET_MAGIC, 512, "here")
    assert placed == []
    assert "last_seq" in str(end)
    full = numbered(5).pack(SET_MAGIC, 512) + numbered(6).pack(SET_MAGIC, 512)
    assert scan_journal_bucket(full, SET_MAGIC, 512, "here")[1] is None


def test_what_looks_like_an_entry_is_traced_wherever_the_reading_ends() -> None:
    raw = bytearray(BUCKET_BYTES)
    for byte, seq in ((512, 7), (4096, 8)):
        raw[byte : byte + 512] = numbered(seq).pack(SET_MAGIC, 512)
    raw[4096] ^= 1
    assert trace_entries(raw, SET_MAGIC, 512) == [(512, 7, 1), (4096, 8, 1)]
    assert trace_entries(raw, SET_MAGIC, 4096) == [(4096, 8, 1)]
    assert trace_entries(raw, SET_MAGIC + 1, 512) == []
    assert claimed_seq(raw, 4096) == 8
