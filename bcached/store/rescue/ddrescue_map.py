# SPDX-License-Identifier: GPL-2.0-only
"""A map of GNU ddrescue: which parts of a device a copy of it has.

The text has comments (#, at the beginning of a line or behind a space), the state of the run, and then
position, size and status of each block. Numbers are C's, in bytes. It is refused where ddrescue refuses it:
blocks follow each other without a gap. What is in front of the first one, or behind the last one, was not
read.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bcached.errors import SetRefused
from bcached.units import SECTOR_BYTES

COPIED = "+"
STATUSES = "?*/-+"  # not tried, not trimmed, not scraped, bad, copied
RUN_STATUSES = STATUSES + "FG"
NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
BYTES_MAX = (1 << 63) - 1
SHOWN_OF_A_LINE = 40

Row = tuple[int, list[str]]  # number of the line, its words


@dataclass(frozen=True, slots=True)
class DdrescueMap:
    """What a map says, in bytes: ranges that were not read, in order and apart, and where its blocks end."""

    path: str
    unread: list[tuple[int, int]]
    copied_end: int  # of the last block that was copied
    end: int

    def unread_sectors(self, size_bytes: int) -> list[range]:
        """Returns the sectors of a copy of that size that are not those of the device, in order."""
        behind = [(self.end, size_bytes)] if self.end < size_bytes else []
        return [
            range(begin // SECTOR_BYTES, -(-end // SECTOR_BYTES))
            for begin, end in _joined([*self.unread, *behind])
        ]


def parse_map(lines: Iterable[str], path: str) -> DdrescueMap:
    """Returns what a map says. Raises SetRefused, with the number of the line, if it is none."""
    rows = _rows(lines)
    _check_status_line(next(rows, None), path)
    unread: list[tuple[int, int]] = []
    copied_end, end = 0, -1
    for row in rows:
        begin, size, status = _block(row, path)
        if end < 0 < begin:
            unread.append((0, begin))
        elif end >= 0 and begin != end:
            found = f"a block at {begin:#x}" + (", in the one before" if begin < end else " behind a gap")
            raise _refusal(path, row, f"expected a block at {end:#x}, where the one before ends", found)
        end = begin + size
        if status == COPIED:
            copied_end = end
        else:
            unread.append((begin, end))
    if end < 0:
        raise SetRefused(f"{path}: expected a ddrescue map with the blocks that were read, found none")
    return DdrescueMap(path, list(_joined(unread)), copied_end, end)


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if words := re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split():
            yield number, words


def _check_status_line(row: Row | None, path: str) -> None:
    """The first line: the position and the status of the run, and perhaps the number of its pass."""
    if row is None:
        raise SetRefused(
            f"{path}: expected a ddrescue map, found nothing in it: is the copy's map another file?"
        )
    words = row[1]
    is_one = len(words) in {2, 3} and NUMBER.fullmatch(words[0]) and words[1] in set(RUN_STATUSES)
    if not (is_one and (len(words) == 2 or re.fullmatch("[1-9][0-9]{0,8}", words[2]))):
        raise _refusal(path, row, "expected a ddrescue map, whose first line is a position and a status")


def _block(row: Row, path: str) -> tuple[int, int, str]:
    """Returns position, size and status of a block."""
    words = row[1]
    if len(words) != 3 or not all(NUMBER.fullmatch(word) for word in words[:2]):
        raise _refusal(path, row, "expected a block's position, size and status")
    if words[2] not in set(STATUSES):
        raise _refusal(path, row, f"expected one of the statuses {' '.join(STATUSES)}", repr(words[2][:1]))
    begin, size = map(_number, words[:2])
    if begin + size > BYTES_MAX:
        raise _refusal(path, row, "expected numbers below 2^63")
    if size == 0 and begin > 0:
        raise _refusal(path, row, "expected a block with a size")
    return begin, size, words[2]


def _number(word: str) -> int:
    is_octal = word.isdigit() and word.startswith("0")
    return int(word, 8 if is_octal else 0)


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields ranges in order, those that share a sector or touch each other as one."""
    last: tuple[int, int] | None = None
    for begin, end in ranges:
        if last is not None and begin // SECTOR_BYTES <= -(-last[1] // SECTOR_BYTES):
            last = last[0], max(last[1], end)
            continue
        if last is not None:
            yield last
        last = begin, end
    if last is not None and last[0] < last[1]:
        yield last


def _refusal(path: str, row: Row, expected: str, found: str = "") -> SetRefused:
    number, words = row
    found = found or repr(" ".join(words)[:SHOWN_OF_A_LINE])
    return SetRefused(f"{path}, line {number}: {expected}, found {found}")
