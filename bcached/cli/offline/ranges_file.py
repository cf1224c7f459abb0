# SPDX-License-Identifier: GPL-2.0-only
"""A file of ranges: on each line an offset and a length, in sectors, or with a suffix in bytes."""

from collections.abc import Iterable

import click

from bcached.cli.amounts import SECTORS
from bcached.runtime.warming.ranges import Range, merged

WORD_LENGTH_MAX = 30  # of a number of 64 bits and its suffix


def parse_ranges(lines: Iterable[str]) -> list[Range]:
    """Returns the ranges in order. Raises a usage error with the line that is wrong."""
    found = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or max(map(len, words)) > WORD_LENGTH_MAX:
            raise click.UsageError(
                f"ranges, line {number}: expected an offset and a length, found {len(words)} words: "
                f"{' '.join(words)[:WORD_LENGTH_MAX]!r}"
            )
        try:
            offset, length = (SECTORS.convert(word, None, None) for word in words)
        except click.BadParameter as error:
            raise click.UsageError(f"ranges, line {number}: {error.message}") from None
        found.append(Range(offset, offset + length))
    return merged(found)
