# SPDX-License-Identifier: GPL-2.0-only
"""Options that say how a set was made, for devices whose superblock is gone."""

import click

from bcached.cli.amounts import SIZE_IN_SECTORS
from bcached.format.sizes import BLOCK_SECTORS_READ_MAX, BUCKET_SECTORS_MAX, BUCKET_SECTORS_MIN
from bcached.units import SECTOR_BYTES


class BucketAndBlock(click.ParamType[tuple[int, int]]):
    """Two sizes, of a bucket and of a block (512k,4k); converted to sectors."""

    name = "geometry"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Both in sectors, or a usage error."""
        if isinstance(value, tuple):
            return value
        sizes = [SIZE_IN_SECTORS.convert(part, param, ctx) for part in value.split(",")]
        if (
            len(sizes) != 2
            or not all(size and size & (size - 1) == 0 for size in sizes)
            or sizes[0] < sizes[1]
            or not BUCKET_SECTORS_MIN <= sizes[0] <= BUCKET_SECTORS_MAX
            or sizes[1] > BLOCK_SECTORS_READ_MAX
        ):
            self.fail(
                f"{value!r}: expected two powers of two, of a bucket (4k to 16M) and of a block (512 to "
                "64k), as in 512k,4k",
                param,
                ctx,
            )
        return sizes[0], sizes[1]


class VolumeSize(click.ParamType[tuple[int, int]]):
    """A volume's number and its size (0=16G); converted to the number and sectors."""

    name = "volume size"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The volume and its sectors, or a usage error."""
        if isinstance(value, tuple):
            return value
        number, equals, size = value.partition("=")
        if not (equals and number.isascii() and number.isdigit()):
            self.fail(f"{value!r}: expected a volume's number and its size, as in 0=16G", param, ctx)
        sectors = SIZE_IN_SECTORS.convert(size, param, ctx)
        if not sectors:
            self.fail(f"{value!r}: expected a size of at least {SECTOR_BYTES} bytes", param, ctx)
        return int(number), sectors


GEOMETRY = BucketAndBlock()
VOLUME_SIZE = VolumeSize()
