# SPDX-License-Identifier: GPL-2.0-only
"""Amounts on the command line: sectors, and sizes that are whole sectors."""

import click

from bcached.units import SECTOR_BYTES, parse_size


class Sectors(click.ParamType[int]):
    """A number of sectors (8), or with a suffix a size (4k); converted to sectors."""

    name = "sectors"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Sectors, or a usage error."""
        text = str(value)
        if text.isascii() and text.isdigit():
            return int(text)
        return self.of_size(text, param, ctx)

    def of_size(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the sectors of a size in bytes."""
        try:
            size_bytes = parse_size(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size_bytes % SECTOR_BYTES:
            self.fail(f"{text!r} is not a multiple of {SECTOR_BYTES} bytes", param, ctx)
        return size_bytes // SECTOR_BYTES


class SizeInSectors(Sectors):
    """A size in bytes, with a suffix or without, of whole sectors; converted to sectors."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Sectors, or a usage error."""
        return value if isinstance(value, int) else self.of_size(value, param, ctx)


SECTORS = Sectors()
SIZE_IN_SECTORS = SizeInSectors()
