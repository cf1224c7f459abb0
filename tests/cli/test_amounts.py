# SPDX-License-Identifier: GPL-2.0-only
import click
import pytest

from bcached.cli.amounts import SECTORS, SIZE_IN_SECTORS


@pytest.mark.parametrize(("text", "sectors"), [("0", 0), ("8", 8), ("4k", 8), ("1M", 2048), ("1g", 1 << 21)])
def test_a_plain_number_is_sectors_and_a_suffix_makes_it_bytes(text: str, sectors: int) -> None:
    assert SECTORS.convert(text, None, None) == sectors


@pytest.mark.parametrize(("text", "sectors"), [("4096", 8), ("4k", 8), ("1T", 1 << 31)])
def test_a_size_is_bytes_with_a_suffix_or_without(text: str, sectors: int) -> None:
    assert SIZE_IN_SECTORS.convert(text, None, None) == sectors


@pytest.mark.parametrize("text", ["", "k", "-8", "1.5k", "8x", "0x10", "100b", "\u0663", "\u00b2"])
def test_what_is_no_whole_number_of_sectors_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SECTORS.convert(text, None, None)


def test_a_size_without_suffix_that_is_no_multiple_of_a_sector_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="not a multiple of 512"):
        SIZE_IN_SECTORS.convert("1000", None, None)
