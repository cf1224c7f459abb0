# SPDX-License-Identifier: GPL-2.0-only
"""A map of ddrescue is read as ddrescue 1.27 reads it, and refused with the line that is wrong."""

import pytest

from bcached.errors import SetRefused
from bcached.store.rescue.ddrescue_map import DdrescueMap, parse_map

SIZE = 1 << 20
MAP = """# Mapfile. Created by GNU ddrescue
# current_pos  current_status  current_pass
0x00002000     +               1
#      pos        size  status
0x00000000  0x00001000  +
0x00001000  0x00000200  -
0x00001200  0x00000400  *
0x00001600  0x00100000  +
"""


def parsed(text: str) -> DdrescueMap:
    return parse_map(text.split("\n"), "m")


def unread(text: str, size: int = SIZE) -> list[range]:
    return parsed(text).unread_sectors(size)


def test_every_block_that_is_not_copied_is_bad() -> None:
    assert unread(MAP) == [range(8, 11)]
    assert (parsed(MAP).copied_end, parsed(MAP).end) == (0x101600, 0x101600)


@pytest.mark.parametrize("status", "?*/-")
def test_there_are_four_statuses_of_what_was_not_copied(status: str) -> None:
    assert unread(f"0 {status}\n0 0x1000 {status}\n0x1000 0xff000 +\n") == [range(8)]


@pytest.mark.parametrize("status", "?*/-FG+")
def test_the_run_has_its_own_statuses(status: str) -> None:
    assert unread(f"0 {status} 12\n0 {SIZE} +\n") == []


@pytest.mark.parametrize(
    ("blocks", "bad"),
    [
        ("0 010000 +\n4096 1044480 -", [range(8, 2048)]),
        ("0 4096 +\n0X1000 0XFF000 -", [range(8, 2048)]),
        ("0 4096 + # to here\n  # a comment\n4096 1044480 -\t#last", [range(8, 2048)]),
        ("\t0 \t4096 +\r\n\r\n4096 1044480 -\r\n", [range(8, 2048)]),
        ("0 0 ?\n0 1048576 +", []),
        ("0 4096 +", [range(8, 2048)]),  # the rest was not tried
        ("4096 1044480 +", [range(8)]),
        ("0 4097 +\n4097 511 -\n4608 1043968 +", [range(8, 9)]),
        ("0 4000 -\n4000 100 +\n4100 1044476 -", [range(2048)]),  # no whole sector between them
        ("0 1048576 +\n1048576 512 -", [range(2048, 2049)]),
    ],
)
def test_a_block_is_read_as_ddrescue_reads_it(blocks: str, bad: list[range]) -> None:
    assert unread(f"0 +\n{blocks}\n") == bad


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("0x1000 x +", "expected a block's position, size and status, found '0x1000 x +'"),
        ("0x1000 0x200", "expected a block's position, size and status, found '0x1000 0x200'"),
        ("0x1000 0x2", "expected a block's position, size and status"),  # cut off
        ("0x1000 -1 -", "expected a block's position, size and status"),
        ("-0x1000 0x200 -", "expected a block's position, size and status"),
        ("0x1000 0x2_00 -", "expected a block's position, size and status"),
        ("0x1000 09 -", "expected a block's position, size and status"),
        ("0x1000 \u0663 -", "expected a block's position, size and status"),
        ("0x1000 512k -", "expected a block's position, size and status"),
        ("0x1000 0x200 - -", "expected a block's position, size and status"),
        ("0x1000 0x200 F", "expected one of the statuses ? * / - +, found 'F'"),
        ("0x1000 0x200 +-", "expected one of the statuses"),
        ("0x1000 0x0 -", "expected a block with a size"),
        (
            "0x800 0x200 -",
            "expected a block at 0x1000, where the one before ends, found a block at 0x800, in",
        ),
        (
            "0x1200 0x200 -",
            "expected a block at 0x1000, where the one before ends, found a block at 0x1200 b",
        ),
        ("0x1000 0x7ffffffffffff000 -", "expected numbers below 2^63"),
        ("0x1000 0x" + "f" * 5000 + " -", "expected numbers below 2^63"),
    ],
)
def test_a_wrong_block_is_refused_with_its_line(block: str, reason: str) -> None:
    with pytest.raises(SetRefused) as refused:
        parsed(f"0 +\n0 0x1000 +\n{block}\n")
    assert str(refused.value).startswith(f"m, line 3: {reason}")
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "\0" * 4096,
        "no map\n0 0x1000 +",
        "\ufeff0 +\n0 512 +",
        "-1 +\n0 512 +",
        "0 + 0\n0 512 +",
        "0 512 +",
    ],
)
def test_a_file_that_is_no_map_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(
        SetRefused, match=r"^m, line 1: expected a ddrescue map, whose first line is"
    ) as refused:
        parsed(text)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("text", ["", "# a comment\n", "0x2000 + 1\n"])
def test_a_map_without_blocks_says_nothing_of_a_copy(text: str) -> None:
    with pytest.raises(SetRefused, match=r"^m: expected a ddrescue map"):
        parsed(text)
