# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl clone`: a cache device copied to another one, which takes its place."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Interrupted
from bcached.cli.offline.consent import ask, going_on, progress_line, reading_line
from bcached.cli.offline.devices import opened, warn_if_used
from bcached.cli.paths import PATH
from bcached.device import FileDevice
from bcached.device.image_file import create_image, is_unmade
from bcached.device.signatures import find_signatures
from bcached.errors import DeviceRefused
from bcached.store.check.checker import check_set
from bcached.store.check.soundness import refuse_damaged
from bcached.store.clone.clone import Clone, Copied, bytes_needed, is_clone, refuse_unfit
from bcached.store.clone.live_areas import LiveAreas, live_areas
from bcached.store.clone.windows import READ_GAP_BYTES, WRITE_GAP_BYTES
from bcached.store.make.former_contents import losses
from bcached.store.make.layout import refuse_duplicates, refuse_signatures
from bcached.store.make.request import erase_all
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES, format_size


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """What is asked for."""

    cache: str
    target: str
    others: Sequence[str]
    dry_run: bool
    verify: bool
    force: bool
    yes: bool


@dataclass(slots=True)
class CloneOutcome:
    """What was copied, or would be."""

    source: MemberFound
    areas: LiveAreas
    overwritten: list[str] = field(default_factory=list)  # what is found on the target
    done: Copied = field(default_factory=Copied)
    is_done: bool = False


@click.command(
    epilog=examples(
        "bcachectl clone -n /dev/sdc /dev/sdd      how much there is to copy",
        "bcachectl clone --verify /dev/sdc /dev/sdd",
        "bcachectl clone /dev/sdc cache.img        to an image, which is made",
    )
    + "\n\nExit status: 0 done (with -n: it could be), 1 not, 2 usage. A clone has the uuids of CACHE and "
    "takes its place: never register both, and erase one of them (wipefs -a) before the next start. "
    "docs/replacing.md says more.",
)
@click.argument("cache", metavar="CACHE", type=PATH)
@click.argument("target", metavar="TARGET", type=PATH)
@click.option(
    "--with",
    "others",
    metavar="MEMBER",
    type=PATH,
    multiple=True,
    help="Another device of CACHE's set: all are needed, and only read.",
)
@click.option("--verify", is_flag=True, help="Read everything again afterwards, from both, and compare.")
@click.option("--force", is_flag=True, help="Overwrite whatever is on TARGET, but never a device in use.")
@click.option(
    "-n", "--dry-run", is_flag=True, help="Check everything, say what would be copied, write nothing."
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask before anything is overwritten.")
@pass_options
def clone(
    options: GlobalOptions,
    cache: str,
    target: str,
    *,
    others: tuple[str, ...],
    verify: bool,
    force: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Copy the cache device CACHE to TARGET, without writing anything back.

    Copies metadata and live data, dirty and clean, each bucket to its place, with its gen and prio. TARGET
    may be larger; `bcachectl resize` makes use of that. If interrupted, it is safe to run again.
    """
    request = CloneRequest(cache, target, others, dry_run, verify, force, yes)
    refuse_duplicates([cache, target, *others])
    if dry_run:
        warn_if_used([cache, *others])
    try:
        outcome = run_interruptibly(_clone(options, request, is_new=is_unmade(target)))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {target} is not finished, {cache} is as it was; the same command continues"
        ) from None
    answer(options, _document(outcome, request), lambda: "\n".join(_lines(outcome, request)))


async def _clone(options: GlobalOptions, request: CloneRequest, *, is_new: bool) -> CloneOutcome:
    async with opened([request.cache, *request.others], to_read_alone=not request.dry_run) as devices:
        with reading_line() as node_read:
            checked = await check_set(devices, node_read)
        refuse_damaged(checked)
        numbers = [n for n, member in enumerate(checked.members) if member.block_device is devices[0]]
        outcome = CloneOutcome(checked.members[numbers[0]], live_areas(checked, numbers[0]))
        if is_new:
            if not request.dry_run:
                create_image(request.target, bytes_needed(outcome.source), replace=True)
        else:
            async with opened([request.target]) as (target,):
                await _judge_target(request, outcome, target)
        if not request.dry_run:
            if outcome.overwritten:
                ask(options, request.target, _lines(outcome, request), yes=request.yes)
            await _run(request, outcome)
    return outcome


async def _judge_target(request: CloneRequest, outcome: CloneOutcome, target: FileDevice) -> None:
    """Refuse a target that does not fit, or that holds anything unless it may be overwritten."""
    refuse_unfit(outcome.source, target)
    if await is_clone(outcome.source, target):
        outcome.overwritten = []
        return
    lost, signatures = await losses([target]), find_signatures(request.target)
    if not request.force:
        for path, words in lost.items():
            raise DeviceRefused(
                path, f"{words}: that would be lost. Nothing was changed; --force overwrites it"
            )
        refuse_signatures(request.target, signatures)
    outcome.overwritten = [*lost.values()] or [str(signature) for signature in signatures]


async def _run(request: CloneRequest, outcome: CloneOutcome) -> None:
    async with opened([request.target], to_change=True) as (target,):
        await _judge_target(request, outcome, target)
        await erase_all(target, find_signatures(request.target))
        with progress_line(outcome.areas.sectors, "copied") as show:
            run = Clone(
                outcome.source,
                outcome.areas,
                target,
                lambda done: show(done.copied_sectors),
                outcome.done,
                READ_GAP_BYTES if target.is_block else WRITE_GAP_BYTES,
            )
            with going_on("once that is mended, the same command continues"):
                await run.run(verify=request.verify)
        outcome.is_done = True


def _document(outcome: CloneOutcome, request: CloneRequest) -> dict[str, object]:
    superblock, done = outcome.source.superblock, outcome.done
    return {
        "source": request.cache,
        "target": request.target,
        "dry_run": request.dry_run,
        "done": outcome.is_done,
        "uuid": str(superblock.uuid),
        "set_uuid": str(superblock.set_uuid),
        "bytes_needed": bytes_needed(outcome.source),
        "live_sectors": outcome.areas.sectors,
        "copied_sectors": done.copied_sectors,
        "equal_sectors": done.equal_sectors,
        "verified": outcome.is_done and request.verify,
    }


def _lines(outcome: CloneOutcome, request: CloneRequest) -> list[str]:
    """Returns what was done, or is about to be, as text."""
    live = format_size(outcome.areas.sectors * SECTOR_BYTES)
    whole = format_size(bytes_needed(outcome.source))
    if not outcome.is_done:
        return [
            f"{live} of {whole} on {request.cache} count, and would be copied to {request.target}",
            f"{request.target} would get its uuids and take its place",
            *(f"{request.target} would be overwritten: {found}" for found in outcome.overwritten),
        ]
    there = format_size(outcome.done.equal_sectors * SECTOR_BYTES)
    verified = ", and verified" if request.verify else ""
    copied = f"{live} of {whole} on {request.cache} copied to {request.target}{verified}"
    erase = f"`wipefs -a {request.cache}`"
    return [
        f"{copied}; {there} were there before",
        f"both have the same uuids now: never register both, and erase one of them, as with {erase}",
    ]
