# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl read`: sectors of a volume to standard output: look up, read, check for validity."""

import sys
from collections.abc import Iterator

import click

from bcached.cli.amounts import SECTORS
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of
from bcached.client import BlockingClient, Piece
from bcached.errors import BcachedError
from bcached.units import SECTOR_BYTES

CHUNK_SECTORS = 16384  # in memory at a time


@click.command(
    epilog=examples("bcachectl read 0 0 64k > thumbnail.jpg", "bcachectl read 1 0 10M --zeros > volume.img")
)
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.argument("sectors", type=SECTORS)
@click.option("--zeros", is_flag=True, help="Write zeros for sectors that are not cached, rather than fail.")
@pass_options
def read(options: GlobalOptions, volume: int | str, offset: int, sectors: int, zeros: bool) -> None:
    """Read SECTORS of VOLUME from sector OFFSET on to standard output.

    VOLUME is an inode or a label.
    OFFSET and SECTORS are sectors of 512 bytes, or sizes with a suffix: 8 and 4k are the same. Data whose
    bucket was reused before it was read is not written. At the first sector that is not cached it fails, with
    all before it written.
    """
    end = offset + sectors
    with connected(options) as client:
        inode = inode_of(client, volume)
        for start in range(offset, end, CHUNK_SECTORS):
            until = min(start + CHUNK_SECTORS, end)
            for piece in whole(client, inode, start, until, zeros):
                sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def whole(client: BlockingClient, inode: int, start: int, end: int, zeros: bool) -> Iterator[bytes]:
    """Yields the bytes of a range; zeros, or an error, for what is missing."""
    at = start
    for piece in (*client.fetch(inode, start, end - start), Piece(end, b"")):
        if piece.offset > at:
            if not zeros:
                raise BcachedError(
                    f"volume {inode}: expected {end - start} sectors from {start} on, found none at {at}"
                )
            yield bytes((piece.offset - at) * SECTOR_BYTES)
        yield piece.data
        at = piece.offset + len(piece.data) // SECTOR_BYTES
