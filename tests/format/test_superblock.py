# SPDX-License-Identifier: GPL-2.0-only
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.superblock import FEATURE_INCOMPAT_BCACHED_SET, NotWhole, Superblock
from bcached.format.superblock_fields import BackingDevice
from bcached.set_state import Replacement
from instruments.samples.format_samples import (
    GIB,
    SUPERBLOCK,
    flipped,
    sealed,
    superblocks,
    with_field,
)

IN_USE = replace(
    SUPERBLOCK,
    version=3,
    synchronous=True,
    seq=1,
    journal_buckets=tuple(range(1, 9)),
    last_mount=0x5A5A5A5A,
)
ONE_OF_THREE = replace(IN_USE, version=5, feature_incompat=FEATURE_INCOMPAT_BCACHED_SET, members=3, member=2)
USED_BYTES = 208 + 8 * 8
GOLDEN = Path(__file__).parent / "golden"

UNKNOWN = max(Replacement) + 1
KNOWN = f"expected replacement 0 to {UNKNOWN - 1}"


def parse(raw: bytes, device_bytes: int = GIB, logical_block_bytes: int = 512) -> Superblock:
    return Superblock.parse(
        raw, device_bytes=device_bytes, logical_block_bytes=logical_block_bytes, where="here"
    )


def test_a_fresh_one_has_the_known_checksum() -> None:
    assert SUPERBLOCK.pack()[:8].hex() == "04055d099aadc684"


def test_one_in_use_has_the_known_checksum() -> None:
    assert IN_USE.pack()[:8].hex() == "b3689279601db457"


def test_every_field_stands_where_the_kernel_looks() -> None:
    raw = replace(
        ONE_OF_THREE,
        label="cache",
        discard=True,
        replacement=Replacement.RANDOM,
        other_flags=1 << 40,
        feature_incompat=FEATURE_INCOMPAT_BCACHED_SET | 2,
    ).pack()
    assert raw[8:24].hex() == "0800000000000000" + "0500000000000000"
    assert raw[24:40].hex() == "c68573f64e1a45ca8265f57f48ba6d81"
    assert raw[40:72] == bytes(range(32))
    assert raw[72:104] == b"cache".ljust(32, b"\0")
    assert raw[104:120].hex() == "0b00000000010000" + "0100000000000000"
    assert raw[120:144].hex() == bytes(8).hex() + "0200000000000040" + bytes(8).hex()
    assert raw[144:184] == bytes(40)
    assert raw[184:192].hex() == "0004000000000000"
    # block_size, bucket_size (as a power, since the feature is set), nr_in_set, nr_this_dev
    assert raw[192:200].hex() == "0800" + "0a00" + "0300" + "0200"
    assert raw[200:208].hex() == "5a5a5a5a" + "0100" + "0800"
    assert raw[208:272] == b"".join(bucket.to_bytes(8, "little") for bucket in range(1, 9))
    assert raw[272:] == bytes(4096 - 272)


@pytest.mark.parametrize("name", [path.stem for path in sorted(GOLDEN.glob("superblock-*.bin"))])
def test_blocks_written_by_other_programs_are_read_and_written_alike(name: str) -> None:
    raw = (GOLDEN / f"{name}.bin").read_bytes().ljust(4096, b"\0")
    expected = json.loads((GOLDEN / "superblocks.json").read_text())[name]
    superblock = parse(raw, device_bytes=expected.pop("device_bytes"))
    assert {field: f"{getattr(superblock, field)}" for field in expected} == expected
    assert superblock.pack() == raw


@given(superblocks())
def test_what_is_packed_is_parsed_again(superblock: Superblock) -> None:
    assert parse(superblock.pack(), device_bytes=64 * GIB) == superblock


def test_a_flipped_bit_is_refused_wherever_it_is() -> None:
    raw = IN_USE.pack()
    for bit in range(8 * USED_BYTES):
        with pytest.raises(FormatError):
            parse(flipped(raw, bit))


def test_bits_behind_the_last_journal_bucket_mean_nothing() -> None:
    raw = IN_USE.pack()
    for bit in range(8 * USED_BYTES, 8 * 4096, 999):
        assert parse(flipped(raw, bit)) == IN_USE


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (16, "Q", 2, "here, version: expected a cache device's: 0, 3 or 5, found 2"),
        (16, "Q", 7, "here, version: expected a cache device's: 0, 3 or 5, found 7"),
        (40, "16s", bytes(16), "here, uuid: expected not zero, found zero"),
        (56, "16s", bytes(16), "here, set_uuid: expected not zero, found zero"),
        (
            104,
            "Q",
            1 | UNKNOWN << 2,
            f"here, flags: {KNOWN}, found replacement {UNKNOWN}",
        ),
        (104, "Q", 1 | 7 << 2, f"here, flags: {KNOWN}, found replacement 7"),
        (120, "Q", 1, "here, feature_compat: expected no unknown bit, found 0x1"),
        (128, "Q", 1, "here, feature_incompat: expected no unknown bit, found 0x1"),
        (128, "Q", 1 << 63, "here, feature_incompat: expected no unknown bit, found 0x8000000000000000"),
        (136, "Q", 4, "here, feature_ro_compat: expected no unknown bit, found 0x4"),
        (184, "Q", 1 << 63, "here, nbuckets: expected at most 9223372036854775807"),
        (184, "Q", 512, "here, nbuckets: expected at least 513, found 512"),
        (184, "Q", 0, "here, nbuckets: expected at least 513, found 0"),
        (
            184,
            "Q",
            2049,
            "nbuckets: expected what a device of 1073741824 bytes holds, found 2049, or 1074266112",
        ),
        (
            192,
            "H",
            0,
            "block_size: expected at least the device's logical block of 512 bytes, found 0 sectors",
        ),
        (192, "H", 3, "here, block_size: expected a power of two, found 3"),
        (192, "H", 256, "here, block_size: expected at most 128, found 256"),
        (194, "H", 0, "here, bucket_size: expected a power of two, found 0"),
        (194, "H", 1000, "here, bucket_size: expected a power of two, found 1000"),
        (194, "H", 4, "here, bucket_size: expected at least 8, found 4"),
        (196, "H", 0, "here, nr_in_set: expected 1 to 8, found 0"),
        (196, "H", 9, "here, nr_in_set: expected 1 to 8, found 9"),
        (198, "H", 3, "here, nr_this_dev: expected below 3, found 3"),
        (204, "H", 2, "here, d: expected buckets 2 to 9 in sequence, found [1, 2, 3, 4, 5, 6, 7, 8]"),
        (206, "H", 257, "here, njournal_buckets: expected at most 256, found 257"),
        (206, "H", 65535, "here, njournal_buckets: expected at most 256, found 65535"),
        (208, "Q", 2, "here, d: expected buckets 1 to 8 in sequence, found [2, 2, 3, 4, 5, 6, 7, 8]"),
        (264, "Q", 9, "here, d: expected buckets 1 to 8 in sequence, found [1, 2, 3, 4, 5, 6, 7, 9]"),
    ],
)
def test_each_field_that_cannot_be_is_named(
    offset: int, layout: str, value: int | bytes, message: str
) -> None:
    raw = sealed(with_field(ONE_OF_THREE.pack(), offset, layout, value), USED_BYTES)
    with pytest.raises(BadField, match="superblock at here") as caught:
        parse(raw)
    assert message in str(caught.value)


def test_another_offset_is_another_structure() -> None:
    with pytest.raises(BadField, match="offset: expected 8, found 16"):
        parse(sealed(with_field(IN_USE.pack(), 8, "Q", 16), USED_BYTES))


@pytest.mark.parametrize("byte", [b"\0", b"\xa5"])
def test_what_was_never_a_superblock_is_not_called_one_with_a_wrong_offset(byte: bytes) -> None:
    with pytest.raises(NotWhole, match="at here: expected bcache's, found neither its offset nor its magic"):
        parse(byte * 4096)


def test_another_magic_is_named_before_the_checksum_is_looked_at() -> None:
    with pytest.raises(BadMagic, match="superblock at here: expected c68573f6"):
        parse(with_field(IN_USE.pack(), 24, "Q", 0))


def test_a_wrong_checksum_is_named_with_the_right_one() -> None:
    with pytest.raises(BadChecksum, match="expected 0x57b41d60799268b3, found 0x0000000000000005"):
        parse(with_field(IN_USE.pack(), 0, "Q", 5))


def test_the_journal_must_leave_buckets_behind_it() -> None:
    raw = replace(IN_USE, first_bucket=1020, journal_buckets=(1020, 1021, 1022, 1023)).pack()
    with pytest.raises(BadField, match="first_bucket: expected an end below 1024, found 1024"):
        parse(raw)


def test_the_first_bucket_must_be_behind_the_superblock() -> None:
    raw = replace(IN_USE, bucket_sectors=8, first_bucket=1, journal_buckets=()).pack()
    with pytest.raises(BadField, match="first_bucket: expected sector 16 or later, found sector 8"):
        parse(raw)


def test_a_trusted_journal_must_have_buckets() -> None:
    with pytest.raises(BadField, match="njournal_buckets: expected at least 1, since SYNC is set, found 0"):
        parse(replace(IN_USE, journal_buckets=()).pack())


def test_the_block_must_hold_a_block_of_the_device() -> None:
    raw = replace(IN_USE, block_sectors=4).pack()
    assert parse(raw, logical_block_bytes=2048).block_sectors == 4
    with pytest.raises(BadField, match="logical block of 4096 bytes, found 4 sectors"):
        parse(raw, logical_block_bytes=4096)


def test_a_device_that_shrank_is_refused() -> None:
    assert parse(IN_USE.pack(), device_bytes=512 << 20) == IN_USE
    with pytest.raises(BadField, match="expected what a device of 536870400 bytes holds"):
        parse(IN_USE.pack(), device_bytes=(512 << 20) - 512)


def test_feature_words_of_old_versions_mean_nothing() -> None:
    odd = replace(IN_USE, feature_compat=1, feature_incompat=5, feature_ro_compat=2)
    assert parse(odd.pack()) == odd


def test_a_bucket_larger_than_a_key_can_tell_is_refused() -> None:
    large = replace(ONE_OF_THREE, feature_incompat=2)
    raw = sealed(with_field(large.pack(), 194, "H", 16), USED_BYTES)
    with pytest.raises(BadField, match=r"bucket_size: expected at most 2\^15 sectors, found 2\^16"):
        parse(raw)


def test_the_copy_has_room_only_where_make_bcache_leaves_some() -> None:
    assert replace(SUPERBLOCK, bucket_sectors=8, first_bucket=3).has_space_for_copy
    assert not replace(SUPERBLOCK, bucket_sectors=8, first_bucket=2).has_space_for_copy


@pytest.mark.parametrize("size", [0, 207, 4095, 4097])
def test_a_block_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(BadField, match="size: expected 4096 bytes"):
        parse(IN_USE.pack().ljust(size, b"\0")[:size])


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(junk: bytes) -> None:
    for raw in (junk, junk.ljust(4096, b"\0"), (junk * 4096)[:4096]):
        with pytest.raises(FormatError):
            parse(raw)


@given(
    st.sampled_from([IN_USE, ONE_OF_THREE]),
    st.integers(8, USED_BYTES - 1),
    st.binary(min_size=1, max_size=16),
)
def test_whatever_is_sealed_is_read_or_refused_cleanly(superblock: Superblock, at: int, junk: bytes) -> None:
    raw = bytearray(superblock.pack())
    raw[at : at + len(junk)] = junk
    used = 208 + 8 * int.from_bytes(raw[206:208], "little")
    try:
        parsed = parse(sealed(raw[:4096], min(used, 4096)))
    except FormatError:
        return
    assert parse(parsed.pack()) == parsed


def test_what_cannot_be_parsed_is_not_packed() -> None:
    for broken in (replace(IN_USE, version=1), replace(IN_USE, other_flags=1)):
        with pytest.raises(AssertionError):
            broken.pack()


@pytest.mark.parametrize("version", [1, 4, 6])
@pytest.mark.parametrize("state", range(4))
@pytest.mark.parametrize("mode", [0, 1, 2, 3, 9])
def test_a_backing_device_is_called_one_with_its_state(version: int, state: int, mode: int) -> None:
    raw = sealed(with_field(IN_USE.pack(), 16, "Q", version), USED_BYTES)
    raw = sealed(with_field(raw, 104, "Q", state << 61 | mode), USED_BYTES)
    with pytest.raises(BackingDevice) as told:
        parse(raw)
    backing = BackingSuperblock.of(told.value.raw)
    assert (backing.state, backing.cache_mode, backing.uuid) == (state, mode, IN_USE.uuid)
    assert backing.data_sector == (16 if version == 1 else IN_USE.bucket_count)
    words = f"{backing.state_name}, {backing.cache_mode_name or 'cache mode 9'}"
    words += f", of cache set {IN_USE.set_uuid}" if state else ""
    assert str(told.value) == f"here: is a bcache backing device ({words}), not a cache device"
