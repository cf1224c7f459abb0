# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl rescue`: dirty data written to its backing device, or to an image, without kernel or daemon."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Failed, Interrupted
from bcached.cli.offline.consent import confirm, going_on, reading_line, search_line
from bcached.cli.offline.copy_map import MAP, CopyMaps, read_maps
from bcached.cli.offline.devices import opened, partitions_told, warn_if_used
from bcached.cli.offline.reports.rescue_report import document, lines, shortfall
from bcached.cli.offline.rescue_target import backing_of, create_if_missing, refuse_other_file
from bcached.cli.offline.set_layout import SET_UUID, SIZES, known_layout
from bcached.cli.paths import PATH
from bcached.device import FileDevice
from bcached.errors import SetRefused
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.owner_of import Owner, owner_of, refuse_empty
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.store.rescue.rescue import Rescue, first_data_sector, volume_end
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import Progress, Written
from bcached.units import SECTOR_BYTES, format_size

GOING_ON = "what was written is right, and once that is mended, the same command continues"
CONFIDENCE = {"sure": Confidence.SURE, "newest": Confidence.NEWEST, "all": Confidence.CONFLICTING}


@dataclass(frozen=True, slots=True)
class RescueRequest:
    """What is asked for."""

    caches: Sequence[str]
    backing: str | None
    volume: int | None
    image: str | None
    dry_run: bool
    yes: bool
    mark_clean: bool
    most: Confidence
    copy_maps: CopyMaps
    layout: KnownLayout | None

    @property
    def target(self) -> str:
        """The path of what is written."""
        return self.backing or self.image or ""


@click.command(
    epilog=examples(
        "bcachectl rescue -n /dev/sdc --backing /dev/sdb        what there is, and how sure it is",
        "bcachectl rescue /dev/sdc --backing /dev/sdb           write what is sure",
        "bcachectl rescue /dev/sdc --volume 1 --to volume.img   a flash-only volume, or any, to an image",
    )
    + "\n\nExit status: 0 all dirty data was written (with -n: it was read), 1 not all or none, 2 usage. "
    "docs/rescue.md says what to do about which message of the kernel.",
)
@click.argument("caches", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--backing", metavar="DEV", type=PATH, help="The backing device: its dirty data is written to it."
)
@click.option(
    "--volume", metavar="N", type=click.IntRange(0, (1 << 20) - 1), help="The volume N, by its number."
)
@click.option("--to", "image", metavar="FILE", type=PATH, help="Write the volume's data to a sparse image.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@click.option(
    "--confidence",
    type=click.Choice(list(CONFIDENCE)),
    default="sure",
    show_default=True,
    help="What to write: only what is sure, also the newest that was found, or all.",
)
@MAP
@SIZES
@SET_UUID
@click.option(
    "--mark-clean", is_flag=True, help="If all was written: detach DEV from the set, without dirty data."
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@pass_options
def rescue(
    options: GlobalOptions,
    caches: tuple[str, ...],
    *,
    backing: str | None,
    volume: int | None,
    image: str | None,
    dry_run: bool,
    confidence: str,
    maps: tuple[str, ...],
    geometry: tuple[int, int] | None,
    set_uuid: UUID | None,
    mark_clean: bool,
    yes: bool,
) -> None:
    """Write the dirty data on CACHE (name all devices of the set) to DEV or FILE, and verify it.

    Works on damaged sets: reads what can be read, and says of each part how sure it is. Writes to no CACHE.
    If interrupted, it is safe to run again.
    """
    if (backing is None) == (image is None) or (image is not None and volume is None):
        raise click.UsageError("expected --backing DEV, or --volume N --to FILE")
    if mark_clean and backing is None:
        raise click.UsageError("--mark-clean is for --backing")
    request = RescueRequest(
        caches,
        backing,
        volume,
        image,
        dry_run,
        yes,
        mark_clean,
        CONFIDENCE[confidence],
        read_maps(maps, caches),
        known_layout(geometry, set_uuid, backing),
    )
    if dry_run:
        warn_if_used([*caches, *filter(None, [backing])])
    try:
        with partitions_told([*caches, *filter(None, [backing])]):
            done = run_interruptibly(_rescue(options, request))
    except KeyboardInterrupt:
        done_so_far = f"what was written to {request.target} is right; the same command continues"
        raise Interrupted(f"interrupted: {'nothing was written' if dry_run else done_so_far}") from None
    answer(options, document(done), lambda: "\n".join(lines(done, request.target)))
    if not (done.would_be_complete if dry_run else done.is_complete):
        raise Failed(shortfall(done, request.target))


async def _rescue(options: GlobalOptions, request: RescueRequest) -> Rescue:
    async with opened(request.caches, to_read_alone=not request.dry_run) as caches:
        devices, _ = request.copy_maps.applied(caches)
        with reading_line() as node_read:
            left = await read_corrected(devices, request.layout, node_read=node_read)
        with search_line() as searched:
            await bring_back_lost(left, searched)
        unreadable = Unreadable.of(left.members)
        extents = DirtyExtents.of(left)
        if request.backing is not None:
            return await _to_backing(options, request, request.backing, extents, unreadable)
        return await _to_image(options, request, extents, unreadable)


async def _to_backing(
    options: GlobalOptions, request: RescueRequest, path: str, extents: DirtyExtents, unreadable: Unreadable
) -> Rescue:
    async with opened([path], to_change=not request.dry_run) as (target,):
        backing = await backing_of(target, request.volume)
        inodes = extents.inodes()
        if backing is not None:
            owner = owner_of(extents.left, backing.superblock, path, inodes, request.volume)
        else:
            assert request.volume is not None
            owner = Owner(request.volume, f"{path} has no superblock that says whose device it is")
        if request.mark_clean and backing is None:
            raise SetRefused(f"{path}: has no superblock that could be marked clean")
        rescue = Rescue(extents, owner, request.most, unreadable)
        rescue.count()
        first = first_data_sector(backing.superblock) if backing is not None else 0
        rescue.refuse_outside(target, first)
        if request.dry_run:
            return rescue
        _ask(options, request, rescue)
        await _write(rescue, target, first)
        if request.mark_clean and backing is not None:
            with going_on(GOING_ON):
                await rescue.mark_clean(target, backing)
        return rescue


async def _to_image(
    options: GlobalOptions, request: RescueRequest, extents: DirtyExtents, unreadable: Unreadable
) -> Rescue:
    assert request.volume is not None
    assert request.image is not None
    rescue = Rescue(extents, Owner(request.volume), request.most, unreadable)
    rescue.count()
    size_bytes = volume_end(rescue) * SECTOR_BYTES
    if not size_bytes:
        refuse_empty(extents.left, request.volume, extents.inodes())
    await refuse_other_file(request.image, size_bytes)
    if request.dry_run:
        return rescue
    _ask(options, request, rescue)
    create_if_missing(request.image, size_bytes)
    async with opened([request.image], to_change=True) as (target,):
        await _write(rescue, target, 0)
    return rescue


async def _write(rescue: Rescue, target: FileDevice, first_sector: int) -> None:
    with _progress(rescue) as progress, going_on(GOING_ON):
        await rescue.write(target, first_sector, progress)


def _ask(options: GlobalOptions, request: RescueRequest, rescue: Rescue) -> None:
    """Get the user's consent, on a terminal or by --yes."""
    if request.yes:
        return
    if options.as_json or not sys.stdin.isatty():
        raise click.UsageError(f"it writes to {request.target}: say --yes, or -n to see what it would do")
    click.echo("\n".join(lines(rescue, request.target)), err=True)
    confirm(f"Write to {request.target}?")


@contextmanager
def _progress(rescue: Rescue) -> Iterator[Progress]:
    """Yields a report of progress: a line on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = sum(extent.sectors for extent in rescue.chosen())

    def show(done: Written) -> None:
        now = format_size(done.written_sectors * SECTOR_BYTES)
        click.echo(
            f"\r{now} of {format_size(total * SECTOR_BYTES)} written and verified  ", nl=False, err=True
        )

    try:
        yield show
    finally:
        click.echo(err=True)
