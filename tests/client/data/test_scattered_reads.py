# SPDX-License-Identifier: GPL-2.0-only
"""Long values, read in place."""

import errno
import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from fastcrc import crc64
from hypothesis import given
from hypothesis import strategies as st

from bcached.client.data.huge_pages import WORTH_BYTES
from bcached.client.data.parts_left import PartsLeft
from bcached.client.data.scattered_reads import FileRange, ScatteredRead

FILE_BYTES = 3 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(FILE_BYTES)


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Iterator[int]:
    path = tmp_path_factory.mktemp("scattered") / "file"
    path.write_bytes(content)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.integers(0, 12), max_size=5))
def test_what_is_taken_is_all_of_the_parts_in_order(parts: list[bytes], lengths: list[int]) -> None:
    whole, left, taken = b"".join(parts), PartsLeft(parts), b""
    for wanted in [*lengths, len(whole)]:
        length = min(wanted, len(whole) - len(taken))
        piece = b"".join(left.take(length))
        assert len(piece) == length
        taken += piece
    assert taken == whole


@pytest.mark.parametrize("is_cached", [True, False, "in part"])
@pytest.mark.parametrize("lengths", [(FILE_BYTES,), (1, 4096, 65_536), (70_000, 1 << 20, 3)])
def test_extents_in_any_order_are_one_head_and_one_value(
    descriptor: int, content: bytes, lengths: tuple[int, ...], is_cached: bool | str
) -> None:
    starts = list(accumulate(lengths, initial=0))[:-1]
    places = [FileRange(descriptor, at, length) for at, length in zip(starts, lengths, strict=True)][::-1]
    expected = b"".join(content[one.at : one.at + one.length] for one in places)
    os.posix_fadvise(
        descriptor, 0, FILE_BYTES, os.POSIX_FADV_WILLNEED if is_cached else os.POSIX_FADV_DONTNEED
    )
    if is_cached == "in part":
        os.posix_fadvise(descriptor, FILE_BYTES // 2, FILE_BYTES, os.POSIX_FADV_DONTNEED)
    read = ScatteredRead(2, sum(lengths) - 2, crc64.xz)
    read.fill(places)
    assert (bytes(read.head), read.value(sum(lengths) - 2)) == (expected[:2], expected[2:])


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("lengths", [(9000,), (1, 1, 4094, 8000, 5), (4000, 96, 4904), (20, 8980)])
@pytest.mark.parametrize(("head", "checked_at"), [(0, 0), (2, 1), (4096, 16)])
def test_the_checksum_is_that_of_all_bytes_up_to_the_values_end(
    descriptor: int, content: bytes, lengths: tuple[int, ...], is_cached: bool, head: int, checked_at: int
) -> None:
    advice = os.POSIX_FADV_WILLNEED if is_cached else os.POSIX_FADV_DONTNEED
    os.posix_fadvise(descriptor, 0, FILE_BYTES, advice)
    end = sum(lengths)
    read = ScatteredRead(head, end - head, crc64.xz, checked_at=checked_at)
    starts = accumulate(lengths, initial=0)
    read.fill([FileRange(descriptor, at, length) for at, length in zip(starts, lengths, strict=False)])
    for shorter in (0, 1, lengths[-1], end - head):  # by the rest of a block, or by more than an extent
        length = max(0, end - head - shorter)
        assert read.checksum(length) == crc64.xz(content[checked_at : head + length])


def test_a_value_that_is_shorter_than_what_was_read(descriptor: int, content: bytes) -> None:
    read = ScatteredRead(0, FILE_BYTES, crc64.xz)
    read.fill([FileRange(descriptor, 0, FILE_BYTES)])
    assert read.value(1000) == content[:1000]


def test_a_value_in_huge_pages(descriptor: int, content: bytes) -> None:
    read = ScatteredRead(0, WORTH_BYTES, crc64.xz)
    read.fill([FileRange(descriptor, 0, FILE_BYTES), FileRange(descriptor, 7, WORTH_BYTES - FILE_BYTES)])
    assert read.value(WORTH_BYTES) == content + content[7 : 7 + WORTH_BYTES - FILE_BYTES]


def test_the_end_of_the_device_is_an_error(descriptor: int) -> None:
    read = ScatteredRead(0, 8192, crc64.xz)
    with pytest.raises(OSError, match="device ends") as caught:
        read.fill([FileRange(descriptor, FILE_BYTES - 4096, 8192)])
    assert caught.value.errno == errno.EIO


def test_a_closed_descriptor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="descriptor"):
        ScatteredRead(0, 8192, crc64.xz).fill([FileRange(-1, 0, 8192)])
