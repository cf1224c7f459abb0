# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl make`: format devices or image files as a cache set."""

from uuid import UUID

import click

from bcached.cli.amounts import SIZE_IN_SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Interrupted
from bcached.cli.paths import PATH
from bcached.set_state import POLICY_NAMES, Replacement
from bcached.store.make.layout import BUCKET_BYTES_DEFAULT, PlannedMember
from bcached.store.make.request import MakeOutcome, MakeRequest, make_set
from bcached.units import SECTOR_BYTES, format_size


def _not_zero(context: click.Context, parameter: click.Parameter, value: UUID | None) -> UUID | None:
    if value is not None and value.int == 0:
        raise click.BadParameter("expected a uuid other than all zeros", context, parameter)
    return value


@click.command(
    epilog=examples(
        "bcachectl make --size 1G cache.img",
        "bcachectl make -b 2M --discard /dev/disk/by-id/nvme-...",
        "bcachectl make -n --force /dev/sdx /dev/sdy",
    )
)
@click.argument("devices", metavar="DEVICE...", type=PATH, nargs=-1, required=True)
@click.option(
    "-b",
    "--bucket",
    metavar="SIZE",
    type=SIZE_IN_SECTORS,
    default=BUCKET_BYTES_DEFAULT // SECTOR_BYTES,
    show_default="512k",
    help="Size of a bucket: a power of two from 8k to 16M; 4k with smaller blocks.",
)
@click.option(
    "-w",
    "--block",
    metavar="SIZE",
    type=SIZE_IN_SECTORS,
    show_default="the device's logical block; 4k for images",
    help="Size of a block, the unit of allocation: 512 to 4k.",
)
@click.option("--size", metavar="SIZE", type=SIZE_IN_SECTORS, help="Make an image file of this size, sparse.")
@click.option(
    "--replacement",
    "--cache_replacement_policy",
    type=click.Choice(POLICY_NAMES),
    default="lru",
    show_default=True,
    help="Which cached data is dropped first.",
)
@click.option("--discard", is_flag=True, help="Discard (trim) buckets before reuse.")
@click.option(
    "--set-uuid",
    "--cset-uuid",
    metavar="UUID",
    type=click.UUID,
    callback=_not_zero,
    help="The uuid of the set; else a random one.",
)
@click.option("--wipe-bcache", is_flag=True, help="Overwrite a bcache cache device without dirty data.")
@click.option("--force", is_flag=True, help="Overwrite whatever is there, but never a device in use.")
@click.option(
    "-n", "--dry-run", is_flag=True, help="Check everything, print what would be done, change nothing."
)
@click.option(
    "-C", "--cache", is_flag=True, hidden=True, help="For make-bcache's command lines; always implied."
)
@pass_options
def make(  # noqa: PLR0917 - click passes all by name
    options: GlobalOptions,
    devices: tuple[str, ...],
    bucket: int,
    block: int | None,
    size: int | None,
    replacement: str,
    discard: bool,
    set_uuid: UUID | None,
    wipe_bcache: bool,
    force: bool,
    dry_run: bool,
    cache: bool,
) -> None:
    """Format devices or image files as a cache set. Several devices make one set.

    Options and defaults are make-bcache's; its names are accepted too.
    """
    del cache
    request = MakeRequest(
        paths=devices,
        bucket_bytes=bucket * SECTOR_BYTES,
        block_bytes=None if block is None else block * SECTOR_BYTES,
        image_bytes=None if size is None else size * SECTOR_BYTES,
        replacement=Replacement[replacement.upper()],
        discard=discard,
        set_uuid=set_uuid,
        force=force,
        wipe_bcache=wipe_bcache,
        dry_run=dry_run,
    )
    try:
        outcome = run_interruptibly(make_set(request))
    except KeyboardInterrupt:
        erased = "what was on the devices may be erased; the same command continues, with --wipe-bcache"
        raise Interrupted(f"interrupted: {'nothing was changed' if dry_run else erased}") from None
    for warning in outcome.warnings:
        click.echo(f"bcachectl: {warning}", err=True)
    answer(options, _document(outcome, dry_run), lambda: _text(outcome, dry_run))


def _document(outcome: MakeOutcome, dry_run: bool) -> dict[str, object]:
    """Returns the outcome as a JSON document."""
    return {
        "set_uuid": str(outcome.layout.members[0].superblock.set_uuid),
        "dry_run": dry_run,
        "warnings": outcome.warnings,
        "devices": [_member_document(member, outcome) for member in outcome.layout.members],
    }


def _member_document(member: PlannedMember, outcome: MakeOutcome) -> dict[str, object]:
    superblock = member.superblock
    return {
        "device": superblock.member,
        "path": member.path,
        "uuid": str(superblock.uuid),
        "version": superblock.version,
        "bucket_count": superblock.bucket_count,
        "bucket_sectors": superblock.bucket_sectors,
        "block_sectors": superblock.block_sectors,
        "first_bucket": superblock.first_bucket,
        "journal_bucket_count": member.geometry.journal_bucket_count,
        "replacement": superblock.replacement.name.lower(),
        "discard": superblock.discard,
        "lost": outcome.lost.get(member.path),
        "erased": [str(signature) for signature in outcome.erased.get(member.path, ())],
    }


def _text(outcome: MakeOutcome, dry_run: bool) -> str:
    """Returns the outcome as text: a sentence for each device, and the lines make-bcache prints."""
    lines: list[str] = []
    for member in outcome.layout.members:
        superblock = member.superblock
        bucket = format_size(superblock.bucket_bytes)
        block = format_size(superblock.block_bytes)
        cut = f"{superblock.bucket_count} buckets of {bucket}, blocks of {block}"
        lines.append(f"{member.path}: {'would be laid out' if dry_run else 'laid out'} in {cut}")
        done = "would erase" if dry_run else "erased"
        if member.path in outcome.lost:
            lines.append(f"{member.path}: {'would lose' if dry_run else 'lost'}: {outcome.lost[member.path]}")
        lines += [f"{member.path}: {done} {found}" for found in outcome.erased.get(member.path, ())]
        lines += [
            f"UUID:\t\t\t{superblock.uuid}",
            f"Set UUID:\t\t{superblock.set_uuid}",
            f"version:\t\t{superblock.version}",
            f"nbuckets:\t\t{superblock.bucket_count}",
            f"block_size:\t\t{superblock.block_sectors}",
            f"bucket_size:\t\t{superblock.bucket_sectors}",
            f"nr_in_set:\t\t{superblock.members}",
            f"nr_this_dev:\t\t{superblock.member}",
            f"first_bucket:\t\t{superblock.first_bucket}",
        ]
    return "\n".join(lines)
