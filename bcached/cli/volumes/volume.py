# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl volume`: the entries of the uuid table, whose slots are the inodes of keys."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bcached.cli.amounts import SIZE_IN_SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.groups import VerbGroup
from bcached.cli.online.daemon import connected
from bcached.cli.volumes.volume_name import VOLUME, inode_of
from bcached.cli.volumes.volume_owner import OWNER, owner_text, user_name, with_others
from bcached.units import SECTOR_BYTES, format_size
from bcached.wire.volume_messages import Orphan, Others, Volume, VolumeOwner


@click.group(cls=VerbGroup)
def volume() -> None:
    """List, create, give away and delete volumes. Other verbs take a volume by its inode or its label."""


@volume.command("list")
@pass_options
def list_volumes(options: GlobalOptions) -> None:
    """List all volumes of the set, and the inodes without a volume that still have keys."""
    with connected(options) as client:
        volumes, orphans = client.list_volumes(), client.list_orphans()

    def drawn() -> RenderableType:
        parts: list[RenderableType] = [table(volumes) if volumes else "no volumes"]
        if orphans:
            parts += ["", "keys under inodes without a volume:", orphan_table(orphans)]
        return Group(*parts)

    answer(options, {"volumes": volumes, "orphans": orphans}, drawn)


def table(volumes: Sequence[Volume]) -> Table:
    """Returns a table of volumes, one a line, with their owners and makers if any has one."""
    has_owners = any(one.owner is not None for one in volumes)
    has_makers = any(one.maker is not None for one in volumes)
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column("inode", justify="right")
    for column in ("label", "kind", "size", *["owner"] * has_owners, *["made by"] * has_makers):
        whole = has_makers and column != "label"  # labels and uuids are broken where there is no room
        drawn.add_column(column, justify="right" if column == "size" else "left", no_wrap=whole)
    keeps_uuid = has_owners and not has_makers
    drawn.add_column("uuid", no_wrap=keeps_uuid, overflow="fold", min_width=36 if keeps_uuid else None)
    for one in volumes:
        size = format_size(one.sectors * SECTOR_BYTES) if one.sectors else ""
        kind = "flash-only" if one.flash_only else "cached"
        owner = [owner_text(one.owner)] if has_owners else []
        maker = ["" if one.maker is None else user_name(one.maker)] if has_makers else []
        drawn.add_row(str(one.inode), Text(one.label), kind, size, *owner, *maker, one.uuid)
    return drawn


def orphan_table(orphans: Iterable[Orphan]) -> Table:
    """Returns a table of the inodes without a volume that have keys, one a line."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("inode", "keys", "dirty", "clean"):
        drawn.add_column(column, justify="right")
    for one in orphans:
        sizes = (format_size(sectors * SECTOR_BYTES) for sectors in (one.dirty_sectors, one.clean_sectors))
        drawn.add_row(str(one.inode), f"{one.keys:,}", *sizes)
    return drawn


others_option = click.option(
    "--others",
    type=click.Choice(("read", "nothing")),
    help="What the others may do: read it (the default), or nothing.",
)


@volume.command(
    epilog=examples(
        "bcachectl volume create thumbnails",
        "bcachectl volume create scratch --size 10G",
        "bcachectl volume create mail --owner @mail --others nothing",
    )
)
@click.argument("label")
@click.option(
    "--size",
    metavar="SIZE",
    type=SIZE_IN_SECTORS,
    help="Make it flash-only: a block device of that size to the kernel, whose data is nowhere else.",
)
@click.option("--uuid", type=click.UUID, help="The backing device that the kernel may attach to it.")
@click.option("--owner", metavar="OWNER", type=OWNER, help="The user, or @group, who alone may change it.")
@others_option
@pass_options
def create(
    options: GlobalOptions,
    label: str,
    size: int | None,
    uuid: UUID | None,
    owner: VolumeOwner | None,
    others: Others | None,
) -> None:
    """Create a volume and print its inode. Durable when the command returns.

    Several volumes may have one label; other verbs then take them by their inodes only.
    """
    if others is not None and owner is None:
        raise click.UsageError("--others says what all but the owner may do: give --owner, too")
    named = None if uuid is None else str(uuid)
    with connected(options) as client:
        same = [one.inode for one in client.list_volumes() if one.label == label]
        if same:
            click.echo(f"bcachectl: volume {same[0]} has the label {label!r}, too: use the inodes", err=True)
        inode = client.create_volume(label, sectors=size, uuid=named, owner=with_others(owner, others))
    answer(options, {"inode": inode}, lambda: str(inode))


@volume.command
@click.argument("name", metavar="VOLUME", type=VOLUME)
@click.option("--force", is_flag=True, help="Even if it holds dirty data, which is then lost.")
@pass_options
def delete(options: GlobalOptions, name: int | str, force: bool) -> None:
    """Delete a volume: its reservations end, its keys are dropped, its inode is free.

    Also for the keys under an inode without a volume (`volume list` prints those).
    """
    with connected(options) as client:
        inode = inode_of(client, name)
        client.delete_volume(inode, force=force)
    answer(options, {}, lambda: f"volume {inode} deleted")


@volume.command(
    "owner",
    epilog=examples(
        "bcachectl volume owner thumbnails",
        "bcachectl volume owner thumbnails www-data",
        "bcachectl volume owner mail @mail --others nothing",
        "bcachectl volume owner mail --clear",
    ),
)
@click.argument("name", metavar="VOLUME", type=VOLUME)
@click.argument("owner", metavar="[OWNER]", type=OWNER, required=False)
@others_option
@click.option("--clear", is_flag=True, help="Let every allocator change it again.")
@pass_options
def set_owner(
    options: GlobalOptions, name: int | str, owner: VolumeOwner | None, others: Others | None, clear: bool
) -> None:
    """Print whose a volume is, or give it to a user, or to a @group; or, with --clear, open it to all.

    Only the owner changes what is in it, at once and for all connections. The data on the device is not
    guarded: who can open that can read and write it.
    """
    if clear and (owner is not None or others is not None):
        raise click.UsageError("--clear takes neither an owner nor --others")
    with connected(options) as client:
        inode = inode_of(client, name)
        found = next((one.owner for one in client.list_volumes() if one.inode == inode), None)
        if not clear and owner is None and others is not None:
            if found is None:
                raise click.UsageError(f"volume {inode} has no owner: say who it is")
            owner = found
        if clear or owner is not None:
            found = None if clear else with_others(owner, others)
            client.set_volume_owner(inode, found)
    answer(options, {"inode": inode, "owner": found}, lambda: owner_text(found) or "no owner")
