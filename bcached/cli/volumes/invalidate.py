# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl invalidate`: drop what is cached of a range."""

import click

from bcached.cli.amounts import SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of


@click.command(epilog=examples("bcachectl invalidate 0 0 1G"))
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.argument("sectors", type=SECTORS)
@click.option("--lazy", is_flag=True, help="Do not wait until it is durable.")
@pass_options
def invalidate(options: GlobalOptions, volume: int | str, offset: int, sectors: int, lazy: bool) -> None:
    """Drop SECTORS of VOLUME from sector OFFSET on, dirty data too, which is then lost.

    VOLUME is an inode or a label.
    OFFSET and SECTORS are sectors of 512 bytes, or sizes with a suffix: 8 and 4k are the same.
    """
    with connected(options) as client:
        inode = inode_of(client, volume)
        dropped = client.invalidate(inode, offset, sectors, durable=not lazy)
    answer(options, {"sectors": dropped}, lambda: f"{dropped} sectors dropped")
