# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl lookup`: which sectors of a volume are cached, and where."""

from collections.abc import Iterable

import click
from rich.table import Table

from bcached.cli.amounts import SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of
from bcached.keys import Key
from bcached.units import SECTOR_BYTES, format_size
from bcached.wire.messages import FOUND_MAX


@click.command(epilog=examples("bcachectl lookup 0 0 1G", "bcachectl --json lookup 0 0 1G | jq .keys"))
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.argument("sectors", type=SECTORS)
@click.option("--limit", type=click.IntRange(1, FOUND_MAX), help="Maximum number of keys.")
@click.option("--no-touch", is_flag=True, help="Do not count this as use of the buckets found.")
@pass_options
def lookup(
    options: GlobalOptions, volume: int | str, offset: int, sectors: int, limit: int | None, no_touch: bool
) -> None:
    """Print the keys of SECTORS of VOLUME from sector OFFSET on; what no key covers is not cached.

    VOLUME is an inode or a label.
    OFFSET and SECTORS are sectors of 512 bytes, or sizes with a suffix: 8 and 4k are the same.
    """
    with connected(options) as client:
        inode = inode_of(client, volume)
        found = client.lookup(inode, offset, sectors, limit=limit, touch=not no_touch)
    answer(options, found, lambda: table(found.keys) if found.keys else "nothing there")
    if found.next is not None:
        click.echo(f"there may be more from sector {found.next} on", err=True)


def table(keys: Iterable[Key]) -> Table:
    """Returns a table of keys, a line for each copy."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("offset", "sectors", "size", "state", "device", "sector", "gen"):
        drawn.add_column(column, justify="left" if column == "state" else "right")
    for key in keys:
        state = "dirty" if key.dirty else "clean"
        extent = [str(key.offset), str(key.sectors), format_size(key.sectors * SECTOR_BYTES), state]
        for pointer in key.pointers:
            drawn.add_row(*extent, str(pointer.device), str(pointer.sector), str(pointer.gen))
            extent = [""] * 4
    return drawn
