# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl view`: a backing device with its dirty data, as a network block device; neither is written."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.offline.consent import reading_line, search_line
from bcached.cli.offline.copy_map import MAP, CopyMaps, read_maps
from bcached.cli.offline.devices import opened, partitions_told, warn_if_used
from bcached.cli.offline.nbd_export import refuse_without_engine, serve, uri_of
from bcached.cli.offline.reports.rescue_report import missing_parts
from bcached.cli.offline.rescue import CONFIDENCE
from bcached.cli.offline.set_layout import SET_UUID, SIZES, known_layout
from bcached.cli.paths import PATH
from bcached.device.block_device import BlockDevice
from bcached.device.files.locked_folder import locked_folder
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.dm_table import LinearTarget, targets_of
from bcached.store.rescue.extent_map import packed_map
from bcached.store.rescue.owner_of import Owner, owner_of, read_backing, refuse_empty
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.missing_members import is_missing
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.store.rescue.rescue import Rescue, first_data_sector, volume_end
from bcached.store.rescue.unreadable import Unreadable
from bcached.units import SECTOR_BYTES, format_size


@dataclass(frozen=True, slots=True)
class Exported:
    """What the plugin needs to know."""

    rows: bytes
    size_bytes: int
    caches: Sequence[str]
    base: str | None = None
    base_sector: int = 0
    missing: Sequence[str] = ()  # what of the dirty data a client does not see

    def parameters(self, map_path: str) -> list[str]:
        """Returns the plugin's parameters."""
        parameters = [
            f"map={map_path}",
            f"size={self.size_bytes}",
            *(f"cache={path}" for path in self.caches),
        ]
        if self.base is not None:
            parameters += [f"base={self.base}", f"base_sector={self.base_sector}"]
        return parameters

    def dm_table(self) -> Iterator[LinearTarget]:
        """Yields the same as targets of a table for dmsetup."""
        size_sectors = self.size_bytes // SECTOR_BYTES
        return targets_of(self.rows, size_sectors, self.caches, self.base, self.base_sector)


@click.command(
    epilog=examples(
        "bcachectl view /dev/sdc --backing /dev/sdb         prints a URI for nbd-client, qemu-img, nbdfuse",
        "bcachectl view --cow /dev/sdc --backing /dev/sdb   it can be written; that is lost at the end",
        "bcachectl view --dm-table /dev/sdc --backing /dev/sdb | dmsetup create --readonly merged",
    )
    + "\n\nExit status: 0 exported until Ctrl-C, SIGTERM or SIGHUP (with --dm-table: printed), 1 not, or "
    "nbdkit ended by itself, 2 usage, 130 Ctrl-C before the export began.",
)
@click.argument("caches", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option("--backing", metavar="DEV", type=PATH, help="The backing device below the dirty data.")
@click.option(
    "--volume", metavar="N", type=click.IntRange(0, (1 << 20) - 1), help="The volume N, by its number."
)
@click.option("--cow", is_flag=True, help="Let clients write; what they write is kept apart, until the end.")
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    type=PATH,
    help="The socket to make (default: a temporary one).",
)
@click.option("--dm-table", is_flag=True, help="Print a table for dmsetup instead, and export nothing.")
@click.option(
    "--confidence",
    type=click.Choice(list(CONFIDENCE)),
    default="sure",
    show_default=True,
    help="What to show of the dirty data, as rescue would write it.",
)
@MAP
@SIZES
@SET_UUID
@pass_options
def view(
    options: GlobalOptions,
    caches: tuple[str, ...],
    *,
    backing: str | None,
    volume: int | None,
    cow: bool,
    socket_path: str | None,
    dm_table: bool,
    confidence: str,
    maps: tuple[str, ...],
    geometry: tuple[int, int] | None,
    set_uuid: UUID | None,
) -> None:
    """Export DEV as it would be after a rescue, until interrupted, so that fsck and mount can be tried first.

    Neither CACHE nor DEV is written. Without --backing, what is not dirty reads as zeros.
    """
    if backing is None and volume is None:
        raise click.UsageError("expected --backing DEV or --volume N")
    if dm_table and (cow or socket_path is not None):
        raise click.UsageError("--dm-table exports nothing: it is for neither --cow nor --socket")
    layout = known_layout(geometry, set_uuid, backing)
    if not dm_table:
        refuse_without_engine()
    warn_if_used([*caches, *([backing] if backing is not None else [])])
    with partitions_told([*caches, *filter(None, [backing])]):
        exported = run_interruptibly(
            _find(caches, backing, volume, CONFIDENCE[confidence], read_maps(maps, caches), layout)
        )
    if exported.missing:
        click.echo(f"bcachectl: not shown: {', '.join(exported.missing)}", err=True)
    if dm_table:
        _print_table(options, exported)
        return
    _export(options, exported, socket_path, cow=cow)


def _print_table(options: GlobalOptions, exported: Exported) -> None:
    targets = exported.dm_table()
    for path in [*exported.caches, *filter(None, [exported.base])]:
        if path != os.devnull and not Path(path).is_block_device():
            click.echo(
                f"bcachectl: {path} is a file, and dmsetup needs a device: losetup -r -f --show", err=True
            )
    if options.as_json:
        answer(options, {"size_bytes": exported.size_bytes, "table": list(map(asdict, targets))}, str)
        return
    for target in targets:
        click.echo(str(target))


async def _find(
    paths: Sequence[str],
    backing_path: str | None,
    volume: int | None,
    most: Confidence,
    copy_maps: CopyMaps,
    layout: KnownLayout | None,
) -> Exported:
    async with opened(paths) as caches:
        devices, _ = copy_maps.applied(caches)
        with reading_line() as node_read:
            left = await read_corrected(devices, layout, node_read=node_read)
        with search_line() as searched:
            await bring_back_lost(left, searched)
        extents = DirtyExtents.of(left)
        unreadable = Unreadable.of(left.members)
        files = [_file_of(member.block_device) for member in left.members]
        if backing_path is None:
            assert volume is not None
            rescue = Rescue(extents, Owner(volume), most, unreadable)
            rows, missing = _shown(rescue, 0)
            sectors = volume_end(rescue)
            if not sectors:
                refuse_empty(left, volume, extents.inodes())
            return Exported(rows, sectors * SECTOR_BYTES, files, missing=missing)
        async with opened([backing_path]) as (device,):
            backing = await read_backing(device)
            owner = owner_of(left, backing.superblock, backing_path, extents.inodes(), volume)
            rescue = Rescue(extents, owner, most, unreadable)
            first = first_data_sector(backing.superblock)
            rows, missing = _shown(rescue, first)
            size_bytes = device.size_bytes - first * SECTOR_BYTES
            return Exported(rows, size_bytes, files, device.data_path, first, missing)


def _file_of(member: BlockDevice) -> str:
    """Returns the file that a client's reads of a member are from; of one that is missing there are none."""
    return os.devnull if is_missing(member) else member.data_path


def _shown(rescue: Rescue, first_sector: int) -> tuple[bytes, list[str]]:
    """Returns the map of what clients see of the dirty data, and what they do not see."""
    rescue.count()
    return packed_map(rescue.chosen(), first_sector, rescue.unreadable), missing_parts(rescue, "shows")


def _export(options: GlobalOptions, exported: Exported, socket_path: str | None, *, cow: bool) -> None:
    with locked_folder() as folder, os.fdopen(os.memfd_create("map"), "wb") as map_file:
        map_file.write(exported.rows)
        map_file.flush()
        path = socket_path or str(folder / "socket")

        def announce() -> None:
            document = {"uri": uri_of(path), "size_bytes": exported.size_bytes}
            answer(options, document, lambda: _lines(uri_of(path), exported))
            sys.stdout.flush()

        map_number = map_file.fileno()
        parameters = exported.parameters(f"/dev/fd/{map_number}")
        serve(path, parameters, cow=cow, on_ready=announce, pass_fds=[map_number])


def _lines(uri: str, exported: Exported) -> str:
    return f"{uri}  ({format_size(exported.size_bytes)}; Ctrl-C ends it)"
