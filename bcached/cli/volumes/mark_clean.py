# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl mark-clean`: dirty data of a range has been written back and may be dropped."""

import click

from bcached.cli.amounts import SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of


@click.command("mark-clean", epilog=examples("bcachectl mark-clean 0 0 1G"))
@click.argument("volume", type=VOLUME)
@click.argument("offset", type=SECTORS)
@click.argument("sectors", type=SECTORS)
@click.option("--lazy", is_flag=True, help="Do not wait until it is durable.")
@pass_options
def mark_clean(options: GlobalOptions, volume: int | str, offset: int, sectors: int, lazy: bool) -> None:
    """Mark the dirty data in SECTORS of VOLUME from sector OFFSET on clean.

    VOLUME is an inode or a label.
    OFFSET and SECTORS are sectors of 512 bytes, or sizes with a suffix: 8 and 4k are the same. Data
    overwritten meanwhile stays dirty.
    """
    count, changed = 0, 0
    at: int | None = offset
    with connected(options) as client:
        inode = inode_of(client, volume)
        while at is not None:
            found = client.lookup(inode, at, offset + sectors - at, touch=False)
            dirty = [key for key in found.keys if key.dirty]
            cleaned = client.mark_clean(dirty, durable=not lazy) if dirty else ()
            count += sum(key.sectors for key, is_clean in zip(dirty, cleaned, strict=True) if is_clean)
            changed += cleaned.count(False)
            at = found.next
    text = f"{count} sectors marked clean" + (
        f", {changed} extents have changed meanwhile" if changed else ""
    )
    answer(options, {"sectors": count, "changed": changed}, lambda: text)
