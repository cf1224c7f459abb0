# SPDX-License-Identifier: GPL-2.0-only
"""Options that say how a set was made, for devices whose superblock is gone."""

from uuid import UUID

import click

from bcached.cli.amounts import SIZE_IN_SECTORS
from bcached.cli.interruption import run_interruptibly
from bcached.cli.offline.devices import opened
from bcached.format.sizes import BLOCK_SECTORS_READ_MAX, BUCKET_SECTORS_MAX, BUCKET_SECTORS_MIN
from bcached.store.rescue.owner_of import read_backing
from bcached.store.rescue.remains.superblock_left import KnownLayout
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


SIZES = click.option(
    "--geometry",
    metavar="BUCKET,BLOCK",
    type=GEOMETRY,
    help="The sizes that the set was made with, if the superblock is gone, or of a newer set.",
)
SET_UUID = click.option(
    "--set-uuid",
    metavar="UUID",
    type=click.UUID,
    help="The set's uuid for --geometry (default: the one that DEV is attached to).",
)


def known_layout(
    geometry: tuple[int, int] | None, set_uuid: UUID | None, backing: str | None
) -> KnownLayout | None:
    """Returns what the owner says of a set, its uuid by the backing device if need be; None if nothing."""
    if geometry is None:
        if set_uuid is not None:
            raise click.UsageError("--set-uuid is for --geometry")
        return None
    if set_uuid is None:
        if backing is None:
            raise click.UsageError("--geometry needs --set-uuid, or --backing, whose superblock has it")
        set_uuid = run_interruptibly(_set_uuid_of(backing))
    return KnownLayout(*geometry, set_uuid)


async def _set_uuid_of(backing: str) -> UUID:
    async with opened([backing]) as (device,):
        return (await read_backing(device)).superblock.set_uuid
