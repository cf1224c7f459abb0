# SPDX-License-Identifier: GPL-2.0-only
"""The superblock that an opening uses: the one at sector 8 if it is good, else its copy, else none."""

import pytest

from bcached.store.finding import Finding, Severity
from bcached.store.reading.superblock_check import find_superblock
from instruments.samples.used_set import COPY_AT, SUPERBLOCK_AT, Image


async def found_in(image: Image, *, thorough: bool = True) -> tuple[int | None, list[tuple[str, Severity]]]:
    """The seq of the superblock found, and the findings."""
    findings: list[Finding] = []
    superblock = await find_superblock(image.device(), findings.append, thorough=thorough)
    told = [(finding.rule, finding.severity) for finding in findings]
    return None if superblock is None else superblock.seq, told


async def test_both_good() -> None:
    image = await Image.used()
    assert await found_in(image) == (image.superblock.seq, [])


async def test_the_copy_serves_for_a_broken_superblock() -> None:
    image = await Image.used()
    image.put(SUPERBLOCK_AT, b"\xff" * 512)
    seq, told = await found_in(image)
    assert seq is not None
    assert told == [("superblock", Severity.DAMAGE)]


async def test_a_broken_copy_is_damage_that_only_a_check_looks_for() -> None:
    image = await Image.used()
    image.put(COPY_AT + 100, b"\xff" * 16)
    seq = image.superblock.seq
    assert await found_in(image) == (seq, [("superblock-copy", Severity.DAMAGE)])
    assert await found_in(image, thorough=False) == (seq, [])


async def test_no_copy_at_all_is_how_the_kernel_leaves_it() -> None:
    image = await Image.used()
    image.put(COPY_AT, bytes(4096))
    assert await found_in(image) == (image.superblock.seq, [])


async def test_a_copy_that_differs_is_told() -> None:
    image = await Image.used()
    image.spoil_superblock(56, "16s", b"another set's id", COPY_AT)
    _, told = await found_in(image)
    assert [rule for rule, _ in told] == ["superblock-copy"]


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
async def test_neither_good_is_fatal(fill: bytes) -> None:
    image = await Image.used()
    image.put(SUPERBLOCK_AT, fill * (COPY_AT - SUPERBLOCK_AT + 4096))
    assert await found_in(image) == (None, [("superblock", Severity.FATAL)])
