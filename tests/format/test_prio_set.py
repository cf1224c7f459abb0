# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.magic import set_magic_of
from bcached.format.prio_set import PrioSet, prios_per_bucket
from instruments.samples.format_samples import SET_MAGIC, flipped, sealed, with_field

GOLDEN = Path(__file__).parent / "golden"
SIZE_BYTES = 4096
COUNT = prios_per_bucket(SIZE_BYTES)


def prio_set(prios: list[int], gens: list[int], seq: int = 1, next_bucket: int = 0) -> PrioSet:
    return PrioSet(seq, next_bucket, np.array(prios, np.uint16), np.array(gens, np.uint8))


def parse(raw: bytes | bytearray) -> PrioSet:
    return PrioSet.parse(raw, SET_MAGIC, "here")


SAMPLE = bytes(prio_set([1, 0x8000, 0xFFFF], [7, 8, 255], seq=5, next_bucket=300).pack(SET_MAGIC, SIZE_BYTES))


@pytest.mark.parametrize(
    ("prios", "gens", "checksum"),
    [([], [], 0x85D2DBEBD2EA50D7), ([0] + [32768] * 8, [0] + [1] * 8, 0x5ACA0AC1E83F936D)],
)
def test_the_known_checksums(prios: list[int], gens: list[int], checksum: int) -> None:
    raw = prio_set(prios, gens).pack(SET_MAGIC, 524288)
    assert int.from_bytes(raw[:8], "little") == checksum
    assert len(raw) == 524288


def test_every_field_stands_where_the_kernel_looks() -> None:
    assert SAMPLE[8:40].hex() == "816e21944bf44670050000000000000000000000000000002c01000000000000"
    assert SAMPLE[40:49].hex() == "010007008008ffffff"
    assert SAMPLE[49:] == bytes(SIZE_BYTES - 49)


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 255)), max_size=50),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)
def test_a_set_comes_back(entries: list[tuple[int, int]], seq: int, next_bucket: int) -> None:
    prios, gens = [prio for prio, _ in entries], [gen for _, gen in entries]
    parsed = parse(prio_set(prios, gens, seq, next_bucket).pack(SET_MAGIC, SIZE_BYTES))
    assert (parsed.seq, parsed.next_bucket) == (seq, next_bucket)
    assert parsed.prios.tolist() == prios + [0] * (COUNT - len(prios))
    assert parsed.gens.tolist() == gens + [0] * (COUNT - len(gens))


def test_a_set_may_be_full_and_no_fuller() -> None:
    parsed = parse(prio_set([9] * COUNT, [3] * COUNT).pack(SET_MAGIC, SIZE_BYTES))
    assert set(parsed.prios.tolist()) == {9}
    with pytest.raises(AssertionError):
        prio_set([9] * (COUNT + 1), [3] * (COUNT + 1)).pack(SET_MAGIC, SIZE_BYTES)


def test_what_was_parsed_is_not_tied_to_the_buffer() -> None:
    raw = bytearray(SAMPLE)
    parsed = parse(raw)
    raw[:] = bytes(SIZE_BYTES)
    assert parsed.gens[:3].tolist() == [7, 8, 255]


def test_a_flipped_bit_is_refused_wherever_it_is_slack_included() -> None:
    for bit in range(8 * SIZE_BYTES):
        with pytest.raises(BadChecksum):
            parse(flipped(SAMPLE, bit))


def test_version_and_pad_mean_nothing() -> None:
    raw = with_field(SAMPLE, 24, "Q", 77 | 5 << 32)
    assert parse(sealed(raw, SIZE_BYTES)).seq == 5


def test_another_set_s_prios_are_not_ours() -> None:
    raw = sealed(with_field(SAMPLE, 8, "Q", 1), SIZE_BYTES)
    with pytest.raises(
        BadMagic, match="prio set at here: expected 0x7046f44b94216e81, found 0x0000000000000001"
    ):
        parse(raw)


def test_a_wrong_checksum_is_named_with_the_right_one() -> None:
    with pytest.raises(
        BadChecksum, match=r"prio set at here: expected 0x[0-9a-f]{16}, found 0x0000000000000001"
    ):
        parse(with_field(SAMPLE, 0, "Q", 1))


@pytest.mark.parametrize("size", [0, 39, 40])
def test_too_few_bytes_are_refused(size: int) -> None:
    with pytest.raises(BadField, match="size: expected more than 40 bytes"):
        parse(SAMPLE[:size])


@given(st.binary(max_size=100))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse(raw)


def test_prios_the_kernel_wrote_are_read() -> None:
    """Of a device of 1024 buckets; the expected figures are those it held in memory then."""
    raw = (GOLDEN / "prio-set-kernel.bin").read_bytes()
    parsed = PrioSet.parse(raw, set_magic_of(UUID("ad47af42-f172-48a6-92e4-e4dca44d059f")), "here")
    assert (parsed.seq, parsed.next_bucket) == (1029, 599)
    assert parsed.gens[8:16].tolist() == [0, 19, 51, 24, 68, 34, 7, 18]
    assert parsed.prios[8:16].tolist() == [0, 32626, 32419, 31766, 32065, 31857, 31981, 32626]
    assert parsed.prios[27] == 65535
    assert int(parsed.gens[:1024].sum(dtype=int)) == 4171
