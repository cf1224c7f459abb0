# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl write`: bytes from standard input into a volume: allocate, write, commit."""

import sys

import click

from bcached.cli.amounts import SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of
from bcached.keys import POINTERS_MAX
from bcached.units import SECTOR_BYTES

CHUNK_BYTES = 8 << 20  # in memory at a time


@click.command(
    epilog=examples("bcachectl write 0 0 < thumbnail.jpg", "bcachectl write 0 1G --dirty < notes.txt")
)
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.option(
    "--dirty/--clean",
    default=None,
    help="Whether this is the only copy, to be kept until it is marked clean. "
    "Default: clean, but dirty in a flash-only volume.",
)
@click.option("--lazy", is_flag=True, help="Do not wait until it is durable.")
@click.option(
    "--replicas", type=click.IntRange(1, POINTERS_MAX), help="Number of copies, each on another device."
)
@click.option(
    "--write-point",
    type=click.IntRange(min=0),
    help="Writers with the same number share buckets; default: the process id.",
)
@pass_options
def write(
    options: GlobalOptions,
    volume: int | str,
    offset: int,
    dirty: bool | None,
    lazy: bool,
    replicas: int | None,
    write_point: int | None,
) -> None:
    """Write standard input to VOLUME from sector OFFSET on, replacing what was there.

    VOLUME is an inode or a label.
    OFFSET is sectors of 512 bytes, or a size with a suffix: 8 and 4k are the same. The last block is padded
    with zeros. Each piece of at most 8 MiB is committed atomically: if something fails, whole or not at all.
    """
    with connected(options) as client:
        inode = inode_of(client, volume)
        block_bytes = client.description.devices[0].block_bytes
        at, byte_count = offset, 0
        chunk_bytes = min(CHUNK_BYTES, client.atomic_bytes(replicas or 1))
        chunk = sys.stdin.buffer.read(chunk_bytes)
        while chunk:
            following = sys.stdin.buffer.read(chunk_bytes)
            data = chunk + bytes(-len(chunk) % block_bytes)
            client.store(
                inode,
                at,
                data,
                dirty=dirty,
                durable=not lazy and not following,  # a durable entry makes those before it durable
                replicas=replicas,
                write_point=write_point,
            )
            at += len(data) // SECTOR_BYTES
            byte_count += len(chunk)
            chunk = following
    written = {"inode": inode, "offset": offset, "sectors": at - offset, "bytes": byte_count}
    answer(options, written, lambda: f"{byte_count} bytes written to {at - offset} sectors from {offset} on")
