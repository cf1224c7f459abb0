# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl warm`: a cache filled with data of its backing device before the kernel attaches it."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Failed, Interrupted
from bcached.cli.offline.consent import ask, going_on, progress_line, reading_line
from bcached.cli.offline.devices import opened, warn_if_used
from bcached.cli.offline.ranges_file import parse_ranges
from bcached.cli.paths import PATH
from bcached.device import FileDevice
from bcached.device.text_file import text_lines
from bcached.errors import SetRefused
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.runtime.warming.attachment import BackingAttachment, attach, find_attachment
from bcached.runtime.warming.ranges import Range, cached_ranges, gaps
from bcached.runtime.warming.warming import Warming
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.check.soundness import refuse_damaged
from bcached.store.make.layout import refuse_duplicates
from bcached.store.rescue.owner_of import BackingFound, read_backing
from bcached.store.rescue.rescue import first_data_sector
from bcached.units import SECTOR_BYTES, format_size

CHANGE_COUNTERS = 1 << 10  # no client maps them


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """What is asked for; ranges count from the start of the data."""

    caches: Sequence[str]
    backing: str
    ranges: Sequence[Range]
    attach: bool
    dry_run: bool
    yes: bool


@dataclass(slots=True)
class WarmOutcome:
    """What is wanted, what of it is missing, and what was brought in."""

    attachment: BackingAttachment
    wanted_sectors: int
    missing: list[Range]
    inode: int | None = None
    warmed_sectors: int = 0
    is_done: bool = field(default=False)

    @property
    def missing_sectors(self) -> int:
        """Sectors that are not in the cache."""
        return sum(each.sectors for each in self.missing)


@click.command(
    epilog=examples(
        "bcachectl warm -n /dev/sdc --backing /dev/sdb --ranges hot.txt     how much is not cached yet",
        "bcachectl warm /dev/sdc --backing /dev/sdb --ranges hot.txt",
        "echo '0 64M' | bcachectl warm --yes --attach cache.img --backing disk.img --ranges -",
    )
    + "\n\nExit status: 0 done (with -n: it could be), 1 not, 2 usage. docs/replacing.md says more.",
)
@click.argument("caches", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--backing",
    metavar="DEV",
    type=PATH,
    required=True,
    help="The backing device (not /dev/bcache0): it is only read, unless --attach is given.",
)
@click.option(
    "--ranges",
    "ranges_path",
    metavar="FILE",
    type=PATH,
    required=True,
    help="Lines of OFFSET LENGTH of the bcache device, in sectors, or in bytes with a suffix; - for stdin.",
)
@click.option("--attach", "attaches", is_flag=True, help="Attach DEV first if it is attached to no set.")
@click.option("-n", "--dry-run", is_flag=True, help="Say how much would be brought in; write nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask before DEV is attached.")
@pass_options
def warm(
    options: GlobalOptions,
    caches: tuple[str, ...],
    *,
    backing: str,
    ranges_path: str,
    attaches: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Fill the set on CACHE (name all its devices) with clean data of DEV, while nothing uses either.

    What is cached already stays as it is. When the kernel registers both devices, reads of these ranges hit.
    If interrupted, it is safe to run again: it continues.
    """
    refuse_duplicates([*caches, backing])
    request = WarmRequest(caches, backing, _ranges_in(ranges_path), attaches, dry_run, yes)
    if dry_run:
        warn_if_used([*caches, backing])
    try:
        outcome = run_interruptibly(_warm(options, request))
    except KeyboardInterrupt:
        raise Interrupted("interrupted: the set is sound, and the same command continues") from None
    answer(options, _document(outcome, request), lambda: "\n".join(_lines(outcome, request)))


def _ranges_in(path: str) -> list[Range]:
    try:
        return parse_ranges(sys.stdin if path == "-" else text_lines(path))
    except OSError as error:
        raise Failed(f"{path}: cannot read the ranges: {error.strerror}") from None


async def _warm(options: GlobalOptions, request: WarmRequest) -> WarmOutcome:
    changes = not request.dry_run
    writes_backing = changes and request.attach
    async with (
        opened([request.backing], to_change=writes_backing, to_read_alone=changes) as (backing,),
        opened(request.caches, to_change=changes) as devices,
    ):
        found = await read_backing(backing)
        with reading_line() as node_read:
            checked = await check_set(devices, node_read)
        refuse_damaged(checked)
        outcome = _plan(request, checked, found, backing)
        if changes:
            if outcome.inode is None:
                ask(options, request.backing, _lines(outcome, request), yes=request.yes)
            with going_on("the set is sound, and once that is mended, the same command continues"):
                await _fill(outcome, devices, backing, found)
        return outcome


def _plan(request: WarmRequest, checked: CheckedSet, found: BackingFound, backing: FileDevice) -> WarmOutcome:
    attachment = find_attachment(checked, found, request.backing, attach=request.attach)
    superblock, data = checked.members[0].superblock, first_data_sector(found.superblock)
    end = backing.size_bytes // SECTOR_BYTES
    wanted = [Range(data + each.first, data + each.end) for each in request.ranges]
    if wanted and wanted[-1].end > end:
        raise SetRefused(
            f"{request.backing}: expected ranges up to sector {end - data}, found {request.ranges[-1].end}"
        )
    cached = cached_ranges(checked, attachment.inode) if attachment.inode is not None else iter(())
    missing = list(gaps(wanted, cached, superblock.block_sectors))
    return WarmOutcome(attachment, sum(each.sectors for each in wanted), missing, attachment.inode)


async def _fill(
    outcome: WarmOutcome, devices: Sequence[FileDevice], backing: FileDevice, found: BackingFound
) -> None:
    with tempfile.TemporaryDirectory(prefix="bcachectl-warm-") as folder:
        # No other process has the devices open for writing, so there are no late writers to wait for.
        options = SetOptions(folder, folder, restart_grace_s=0.0, change_counters=CHANGE_COUNTERS)
        async with running(devices, options) as cache_set:
            if outcome.missing_sectors > cache_set.allocations.data_sectors:
                most = format_size(cache_set.allocations.data_sectors * SECTOR_BYTES)
                raise SetRefused(
                    f"the set has {most} for data, and {format_size(outcome.missing_sectors * SECTOR_BYTES)} "
                    "are to be brought in: choose fewer ranges"
                )
            if outcome.inode is None:
                outcome.inode = await attach(cache_set, backing, found, outcome.attachment)
            with progress_line(outcome.missing_sectors, "brought in") as show:
                run = Warming(cache_set, outcome.inode, backing, show)
                await run.fill(outcome.missing)
            outcome.warmed_sectors = run.warmed_sectors
        outcome.is_done = True


def _document(outcome: WarmOutcome, request: WarmRequest) -> dict[str, object]:
    return {
        "backing": request.backing,
        "dry_run": request.dry_run,
        "done": outcome.is_done,
        "volume": outcome.inode,
        "attached": outcome.is_done and outcome.attachment.inode is None,
        "wanted_sectors": outcome.wanted_sectors,
        "missing_sectors": outcome.missing_sectors,
        "warmed_sectors": outcome.warmed_sectors,
    }


def _lines(outcome: WarmOutcome, request: WarmRequest) -> list[str]:
    """Returns what was done, or is about to be, as text."""
    wanted = format_size(outcome.wanted_sectors * SECTOR_BYTES)
    missing = format_size(outcome.missing_sectors * SECTOR_BYTES)
    lines = []
    if outcome.attachment.inode is None:
        attached = "was attached" if outcome.is_done else "would be attached"
        lines.append(f"{request.backing} {attached} to the set, which writes to its superblock")
    brought = "brought into the cache" if outcome.is_done else "would be brought into the cache"
    return [*lines, f"{missing} of {wanted} in the ranges {brought}; the rest was there before"]
