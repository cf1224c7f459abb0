# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl allocate`: reserve sectors from a shell, for as long as the command runs."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing

import click
from rich.table import Table

from bcached.cli.amounts import SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import until_interrupted
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of
from bcached.client.client import Client
from bcached.keys import POINTERS_MAX, Key
from bcached.units import SECTOR_BYTES, format_size
from bcached.wire.admin_messages import INTERVAL_MS_MAX


@click.command(
    epilog=examples("bcachectl allocate 0 0 4k", "bcachectl allocate 0 1G 16M --whole --hold"),
)
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.argument("sectors", type=SECTORS)
@click.option(
    "--whole", is_flag=True, help="All sectors, as several keys if necessary; else one key, perhaps shorter."
)
@click.option(
    "--replicas", type=click.IntRange(1, POINTERS_MAX), help="Number of copies, each on another device."
)
@click.option(
    "--write-point",
    type=click.IntRange(min=0),
    help="Writers with the same number share buckets; default: the process id.",
)
@click.option(
    "--timeout", type=click.FloatRange(0, 300), metavar="SECONDS", help="Wait that long for a bucket."
)
@click.option("--no-wait", is_flag=True, help="Fail at once if no bucket is free.")
@click.option("--hold", is_flag=True, help="Keep the reservation until Ctrl-C or SIGTERM.")
@pass_options
def allocate(
    options: GlobalOptions,
    volume: int | str,
    offset: int,
    sectors: int,
    whole: bool,
    replicas: int | None,
    write_point: int | None,
    timeout: float | None,
    no_wait: bool,
    hold: bool,
) -> None:
    """Reserve SECTORS of VOLUME from sector OFFSET on, and print their locations.

    VOLUME is an inode or a label.
    OFFSET and SECTORS are sectors of 512 bytes, or sizes with a suffix: 8 and 4k are the same. The
    reservation ends with the command.
    """
    with connected(options) as client:
        inode = inode_of(client, volume)
        keys = client.allocate(
            inode,
            offset,
            sectors,
            whole=whole,
            replicas=replicas,
            write_point=write_point,
            wait=not no_wait,
            timeout_ms=None if timeout is None else round(timeout * 1000),
        )

        def on_connected() -> None:
            answer(options, {"keys": keys}, lambda: table(keys))
            if hold and not options.as_json:
                click.echo("held until Ctrl-C", err=True)

        if hold:
            asyncio.run(until_interrupted(hold_on(client.path, on_connected)))
        else:
            on_connected()


def table(keys: Iterable[Key]) -> Table:
    """Returns a table of keys, a line for each copy."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("inode", "offset", "sectors", "size", "device", "sector", "gen"):
        drawn.add_column(column, justify="right")
    for key in keys:
        extent = [key.inode, key.offset, key.sectors, format_size(key.sectors * SECTOR_BYTES)]
        for pointer in key.pointers:
            cells = [pointer.device, pointer.sector, pointer.gen]
            drawn.add_row(*(str(cell) for cell in extent + cells))
            extent = ["", "", "", ""]
    return drawn


async def hold_on(path: str, on_connected: Callable[[], None]) -> None:
    """Call on_connected, then wait while the daemon runs. Raises ConnectionLost when it stops."""
    on_connected()
    # The watch ends only with the daemon; its replies are ignored.
    async with Client(path) as client, aclosing(client.watch(INTERVAL_MS_MAX)) as states:
        async for _ in states:
            pass
