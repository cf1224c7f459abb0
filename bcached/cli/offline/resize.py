# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl resize`: a cache device made larger or smaller, while nothing uses it."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from bcached.cli.amounts import SIZE_IN_SECTORS
from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Interrupted
from bcached.cli.offline.consent import ask, going_on, progress_line, reading_line
from bcached.cli.offline.devices import opened, warn_if_used
from bcached.cli.paths import PATH
from bcached.device import FileDevice
from bcached.errors import DeviceRefused, SetRefused
from bcached.store.check.checker import check_set
from bcached.store.check.soundness import refuse_damaged
from bcached.store.make.layout import refuse_duplicates
from bcached.store.resize.plan import ResizePlan, plan_resize, shape_of
from bcached.store.resize.resize import empty_first
from bcached.store.resize.resize import resize as resize_member
from bcached.units import SECTOR_BYTES, format_size

MAX = -1
EMPTYINGS_MAX = 4  # one is enough, unless buckets could not get a new gen


class NewSize(click.ParamType[int]):
    """A size, converted to sectors; MAX, which is below all sizes, for all of the device."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Sectors, or a usage error."""
        return MAX if value == "max" else SIZE_IN_SECTORS.convert(value, param, ctx)


@dataclass(frozen=True, slots=True)
class ResizeRequest:
    """What is asked for."""

    cache: str
    sectors: int  # MAX: all of the device
    others: Sequence[str]
    dry_run: bool
    yes: bool


@dataclass(slots=True)
class ResizeOutcome:
    """The first plan, and whether it was carried out."""

    plan: ResizePlan
    size_bytes: int
    is_done: bool = False


@click.command(
    epilog=examples(
        "bcachectl resize -n cache.img 20G       what would be dropped, and moved",
        "bcachectl resize cache.img 20G          the image becomes as long, too",
        "bcachectl resize /dev/sdc max           after the device became larger",
    )
    + "\n\nExit status: 0 done (with -n: it could be), 1 not, 2 usage. docs/replacing.md says more.",
)
@click.argument("cache", metavar="CACHE", type=PATH)
@click.argument("size", metavar="SIZE", type=NewSize())
@click.option(
    "--with",
    "others",
    metavar="MEMBER",
    type=PATH,
    multiple=True,
    help="Another device of CACHE's set: all are needed; their journals get the same entries.",
)
@click.option(
    "-n", "--dry-run", is_flag=True, help="Check everything, say what would be done, write nothing."
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask before clean data is dropped.")
@pass_options
def resize(
    options: GlobalOptions, cache: str, size: int, *, others: tuple[str, ...], dry_run: bool, yes: bool
) -> None:
    """Make the cache device CACHE larger or smaller, to SIZE or to all of the device (max).

    An image becomes as long as SIZE. What is behind the end of a smaller one must be empty: clean data is
    dropped, metadata is moved, and dirty data is refused. If interrupted, it is safe to run again: CACHE has
    the old size or the new one.
    """
    refuse_duplicates([cache, *others])
    request = ResizeRequest(cache, size, others, dry_run, yes)
    if dry_run:
        warn_if_used([cache, *others])
    try:
        outcome = run_interruptibly(_resize(options, request))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {cache} is sound, and the same command continues") from None
    answer(options, _document(outcome, request), lambda: "\n".join(_lines(outcome, request)))


async def _resize(options: GlobalOptions, request: ResizeRequest) -> ResizeOutcome:
    async with opened([request.cache, *request.others], to_change=not request.dry_run) as devices:
        whole = request.sectors == MAX
        size_bytes = devices[0].size_bytes if whole else request.sectors * SECTOR_BYTES
        if devices[0].is_block and size_bytes > devices[0].size_bytes:
            raise DeviceRefused(
                request.cache, f"expected at most its {devices[0].size_bytes} bytes, found {size_bytes}"
            )
        plan = await _planned(devices, size_bytes)
        outcome = ResizeOutcome(plan, size_bytes)
        if not request.dry_run:
            if plan.dropped_sectors or plan.emptied_sectors:
                ask(options, request.cache, _lines(outcome, request), yes=request.yes)
            with going_on("the set is sound, and once that is mended, the same command continues"):
                await _run(devices, plan, size_bytes)
            outcome.is_done = True
    return outcome


async def _planned(devices: Sequence[FileDevice], size_bytes: int) -> ResizePlan:
    with reading_line() as node_read:
        checked = await check_set(devices, node_read)
    refuse_damaged(checked)
    (number,) = (n for n, member in enumerate(checked.members) if member.block_device is devices[0])
    bucket_bytes = checked.members[number].superblock.bucket_bytes
    return plan_resize(checked, number, size_bytes // bucket_bytes)


async def _run(devices: Sequence[FileDevice], plan: ResizePlan, size_bytes: int) -> None:
    device = devices[0]
    if size_bytes > device.size_bytes:
        await device.change_size(size_bytes)
    for _ in range(EMPTYINGS_MAX):
        if plan.emptied is None:
            break
        await empty_first(plan)
        plan = await _planned(devices, size_bytes)
    else:
        raise SetRefused(f"{device.path}: too few empty buckets, even after clean data was dropped")
    node_sectors = shape_of(plan.found).node_sectors
    with progress_line(plan.nodes * node_sectors, "of the index written") as show:
        await resize_member(plan, lambda nodes: show(nodes * node_sectors))
    refuse_damaged(await check_set(devices))
    if not device.is_block and size_bytes < device.size_bytes:
        await device.change_size(size_bytes)


def _document(outcome: ResizeOutcome, request: ResizeRequest) -> dict[str, object]:
    plan = outcome.plan
    return {
        "path": request.cache,
        "dry_run": request.dry_run,
        "done": outcome.is_done,
        "size_bytes": outcome.size_bytes,
        "buckets_before": plan.before.bucket_count,
        "buckets": plan.after.bucket_count,
        "dropped_sectors": plan.dropped_sectors + plan.emptied_sectors,
        "moved_buckets": plan.moved_buckets,
    }


def _lines(outcome: ResizeOutcome, request: ResizeRequest) -> list[str]:
    """Returns what was done, or is about to be, as text."""
    plan = outcome.plan
    before, after = plan.before.bucket_count, plan.after.bucket_count
    if before == after:
        return [f"{request.cache}: has {after:,} buckets as it is"]
    size = format_size(after * plan.after.bucket_bytes)
    resized = "resized" if outcome.is_done else "would be resized"
    lines = [f"{request.cache}: {resized} from {before:,} buckets to {after:,}, {size}"]
    done = "dropped" if outcome.is_done else "would be dropped"
    if plan.dropped_sectors:
        lines.append(
            f"{format_size(plan.dropped_sectors * SECTOR_BYTES)} of clean data behind the end {done}"
        )
    if plan.emptied_sectors:
        room = format_size(plan.emptied_sectors * SECTOR_BYTES)
        lines.append(f"{room} of clean data {done}, to make room for metadata")
    if plan.nodes:
        moved = f"{plan.moved_buckets} buckets of metadata moved from behind the end"
        lines.append(f"the index {'was' if outcome.is_done else 'would be'} written again; {moved}")
    return lines
