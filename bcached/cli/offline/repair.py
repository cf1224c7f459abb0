# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl repair`: repair a set on its devices, by steps that the user names."""

import asyncio
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.fsck_command import FsckCommand, WronglyUsed
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Interrupted
from bcached.cli.offline.consent import confirm, going_on, reading_line, search_line
from bcached.cli.offline.copy_map import MAP, CopyMaps, read_maps
from bcached.cli.offline.devices import opened, partition_table_of, warn_if_used
from bcached.cli.offline.reports.repair_report import document, lines, status_of, step_lines
from bcached.cli.offline.set_layout import GEOMETRY, VOLUME_SIZE
from bcached.cli.paths import PATH
from bcached.errors import DeviceError, DeviceRefused
from bcached.keys import INODE_MAX
from bcached.store.repair.applying import Progress
from bcached.store.repair.needs import REBUILDING, StepOption
from bcached.store.repair.new_metadata.volume_slots import NamedBacking, parse_backing
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.repair import Repair
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.owner_of import read_backing
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.units import format_size


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """The command's arguments."""

    caches: tuple[str, ...]
    steps: frozenset[StepOption]
    seq: int
    newest: bool
    accepts_loss: bool
    geometry: tuple[int, int] | None
    set_uuid: UUID | None
    backings: tuple[tuple[int | None, str], ...]
    volume_sizes: dict[int, int]
    dry_run: bool
    yes: bool
    undo: str | None
    copy_maps: CopyMaps


@click.command(
    cls=FsckCommand,
    epilog=examples(
        "bcachectl repair cache.img                                   what could be done",
        "bcachectl repair -n --rebuild-prios cache.img                what would be given up",
        "bcachectl repair --undo cache.undo --rebuild-prios cache.img",
        "bcachectl repair --restore cache.undo                        all as it was before",
    )
    + "\n\nExit status, as fsck's: 0 sound, 1 corrected, 4 errors remain, 8 could not be done, "
    "16 usage, 130 by Ctrl-C. docs/rescue.md says what to do about which message of the kernel.",
)
@click.argument("devices", metavar="CACHE...", type=PATH, nargs=-1)
@click.option(
    "--superblock",
    is_flag=True,
    help="Write a damaged superblock again: from its copy, its other fields, other members, or a scan.",
)
@click.option("--geometry", metavar="BUCKET,BLOCK", type=GEOMETRY, help="With it: how the set was made.")
@click.option("--set-uuid", metavar="UUID", type=click.UUID, help="With it: the set's uuid.")
@click.option("--correct-bits", is_flag=True, help="Put single wrong bits right, as the checksums say.")
@click.option(
    "--clear-journal-behind",
    "seq",
    metavar="SEQ",
    type=click.IntRange(min=1),
    help="Go back to journal entry SEQ: nothing newer is left on any member.",
)
@click.option("--rebuild-prios", is_flag=True, help="Rebuild the prios: gens by the keys that are left.")
@click.option(
    "--rebuild-volumes",
    is_flag=True,
    help="Rebuild the uuid table, by an earlier one, backing devices and keys.",
)
@click.option(
    "--backing",
    "backings",
    metavar="[N=]DEV",
    multiple=True,
    help="With it: the backing device of volume N; its uuid is read.",
)
@click.option(
    "--volume-size",
    "volume_sizes",
    metavar="N=SIZE",
    type=VOLUME_SIZE,
    multiple=True,
    help="With it: the size of the flash-only volume N (default, if that is lost: where its keys end).",
)
@click.option(
    "--drop-damaged",
    is_flag=True,
    help="Rebuild the index and the journal from what is sure; drop what is damaged, or points to nothing.",
)
@click.option(
    "--drop-missing",
    is_flag=True,
    help="Make a set of the members that are left of one of several; needs --undo.",
)
@click.option("--newest", is_flag=True, help="Keep what is only the newest that was found as well.")
@click.option("--give-up-dirty", is_flag=True, help="Go on if dirty data is lost by it, or may be.")
@MAP
@click.option(
    "--undo",
    metavar="FILE",
    type=PATH,
    help="Save what is overwritten in FILE first: a new one, or of this repair.",
)
@click.option("--restore", metavar="FILE", type=PATH, help="Undo a repair, also one that was interrupted.")
@click.option("-n", "--dry-run", is_flag=True, help="Print what each step would do and lose; change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@pass_options
def repair(
    options: GlobalOptions,
    devices: tuple[str, ...],
    *,
    superblock: bool,
    geometry: tuple[int, int] | None,
    set_uuid: UUID | None,
    correct_bits: bool,
    seq: int | None,
    rebuild_prios: bool,
    rebuild_volumes: bool,
    backings: tuple[str, ...],
    volume_sizes: tuple[tuple[int, int], ...],
    drop_damaged: bool,
    drop_missing: bool,
    newest: bool,
    give_up_dirty: bool,
    maps: tuple[str, ...],
    undo: str | None,
    restore: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Repair the set on CACHE (name all its devices), which no daemon may use.

    Only the steps that are named are done. Each one first prints what is lost by it. --restore writes back
    what a FILE of --undo holds, to the devices it names, or to CACHE if they have other names now. The same
    command continues what was interrupted.
    """
    named = {
        StepOption.SUPERBLOCK: superblock,
        StepOption.CORRECT_BITS: correct_bits,
        StepOption.CLEAR_JOURNAL: seq is not None,
        StepOption.REBUILD_PRIOS: rebuild_prios,
        StepOption.REBUILD_VOLUMES: rebuild_volumes,
        StepOption.DROP_DAMAGED: drop_damaged,
        StepOption.DROP_MISSING: drop_missing,
    }
    request = RepairRequest(
        devices,
        frozenset(step for step, is_named in named.items() if is_named),
        seq or 0,
        newest,
        give_up_dirty,
        geometry,
        set_uuid,
        tuple(map(_backing, backings)),
        dict(volume_sizes),
        dry_run,
        yes,
        undo,
        read_maps(maps, devices) if restore is None else CopyMaps(),
    )
    if restore is not None:
        if request.steps or undo is not None or dry_run or maps:
            raise WronglyUsed("--restore goes with no step, -n, --undo or --map")
        with _interrupted_as("the same command continues"):
            run_interruptibly(_restore(options, restore, Undo.read(restore), devices))
        return
    _refuse_misuse(request)
    if dry_run or not request.steps:
        warn_if_used(devices)
    with _interrupted_as("nothing was written"):
        done = run_interruptibly(_repair(options, request))
    answer(options, document(done), lambda: "\n".join(lines(done, request.copy_maps.options)))
    click.get_current_context().exit(status_of(done))


def _backing(text: str) -> tuple[int | None, str]:
    """Returns the volume and the path of [N=]DEV. Raises a usage error at a number that no volume has."""
    inode, path = parse_backing(text)
    if inode is not None and inode > INODE_MAX:
        raise WronglyUsed(f"--backing {text}: expected a volume's number, at most {INODE_MAX}")
    return inode, path


def _refuse_misuse(request: RepairRequest) -> None:
    """Refuse options that have no effect."""
    if not request.caches:
        raise WronglyUsed("expected CACHE..., or --restore FILE")
    about_superblock = request.geometry is not None or request.set_uuid is not None
    if about_superblock and StepOption.SUPERBLOCK not in request.steps:
        raise WronglyUsed("--geometry and --set-uuid are for --superblock")
    if request.backings and not {StepOption.SUPERBLOCK, StepOption.REBUILD_VOLUMES} & request.steps:
        raise WronglyUsed("--backing is for --rebuild-volumes and --superblock")
    if request.volume_sizes and StepOption.REBUILD_VOLUMES not in request.steps:
        raise WronglyUsed("--volume-size is for --rebuild-volumes")
    if StepOption.DROP_MISSING in request.steps and request.undo is None and not request.dry_run:
        raise WronglyUsed("--drop-missing changes the members' numbers, and so needs --undo FILE")
    if (request.newest or request.accepts_loss) and not request.steps & REBUILDING:
        raise WronglyUsed("--newest and --give-up-dirty are for --drop-damaged and --rebuild-...")


async def _repair(options: GlobalOptions, request: RepairRequest) -> Repair:
    if StepOption.SUPERBLOCK in request.steps:
        for path in request.caches:
            _refuse_partitioned(path)
    async with opened(request.caches, to_change=bool(request.steps) and not request.dry_run) as devices:
        with search_line() as searched, reading_line() as node_read:
            seen, _ = request.copy_maps.applied(devices)
            done = await plan_repair(devices, await _wishes(request), searched, seen, node_read)
        if request.dry_run or not done.is_needed or done.obstacle:
            return done
        _ask(options, request, done)
        with going_on("nothing was changed: name another file"):
            undo = await UndoLog.open(request.undo, devices) if request.undo is not None else None
        try:
            with _progress(done) as progress:
                await done.write(undo, progress)
        except asyncio.CancelledError:
            raise Interrupted(f"interrupted in the middle: {_how_to_go_on(request)}") from None
        except DeviceError as error:
            raise DeviceError(error.path, f"{error.reason}; {_how_to_go_on(request)}") from None
        finally:
            if undo is not None:
                undo.log.close()
    return done


def _refuse_partitioned(path: str) -> None:
    """Raises DeviceRefused for a device whose partition table a new superblock would be written into."""
    if table := partition_table_of(path):
        raise DeviceRefused(
            path,
            f"it has a partition table ({table}), and no superblock of bcache: name the partition that has "
            "one. If the table was written over a whole set by mistake, erase it first: "
            f"wipefs --backup -a -t {table} {path}",
        )


@contextmanager
def _interrupted_as(left: str) -> Iterator[None]:
    """Raises Interrupted for Ctrl-C inside, with what that leaves."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {left}") from None


def _how_to_go_on(request: RepairRequest) -> str:
    """Returns what there is to do when a repair ends while it writes."""
    if request.undo is None:
        return "the same command continues"
    restore = shlex.join(["bcachectl", "repair", "--restore", request.undo])
    return f"the same command continues, and {restore} brings back what was there"


async def _wishes(request: RepairRequest) -> Wishes:
    """Returns what is asked for, with what the backing devices say."""
    backings = []
    for inode, path in request.backings:
        async with opened([path]) as (device,):
            backings.append(NamedBacking(path, (await read_backing(device)).superblock, inode))
    set_uuid = request.set_uuid
    if set_uuid is None and backings:
        set_uuid = backings[0].superblock.set_uuid
    if request.geometry is not None and set_uuid is None:
        raise WronglyUsed("--geometry needs --set-uuid, or --backing, whose superblock has it")
    layout = KnownLayout(*request.geometry, set_uuid) if request.geometry and set_uuid is not None else None
    return Wishes(
        request.steps,
        request.seq,
        Confidence.NEWEST if request.newest else Confidence.SURE,
        request.accepts_loss,
        layout,
        set_uuid,
        backings,
        request.volume_sizes,
    )


def _ask(options: GlobalOptions, request: RepairRequest, done: Repair) -> None:
    """Get the user's consent, on a terminal or by --yes."""
    if request.yes:
        return
    if options.as_json or not sys.stdin.isatty():
        raise WronglyUsed(
            "it changes what is on the devices for good: say --yes, or -n to see what it would do"
        )
    click.echo("\n".join(step_lines(done)), err=True)
    if request.undo is None:
        click.echo("Without --undo FILE this cannot be undone.", err=True)
    confirm("Go on?")


async def _restore(options: GlobalOptions, path: str, undo: Undo, devices: tuple[str, ...]) -> None:
    paths = devices or tuple(named.path for named in undo.devices)
    if len(paths) != len(undo.devices):
        raise WronglyUsed(f"expected the {len(undo.devices)} devices of {path}, found {len(paths)}")
    async with opened(paths, to_change=True) as opened_devices:
        with going_on("once that is mended, the same command continues"):
            size = await undo.restore(opened_devices)
    restored = {"restored_bytes": size, "devices": list(paths), "undo_file_is_whole": undo.is_whole}
    answer(options, restored, lambda: f"restored {format_size(size)} on {', '.join(paths)}")
    if not undo.is_whole:
        click.echo(
            f"{path} does not say that the repair ended. If that was not interrupted, the end of the file is "
            "missing, and what it held was not restored: bcachectl check tells what is left",
            err=True,
        )


@contextmanager
def _progress(done: Repair) -> Iterator[Progress]:
    """Yields a report of progress: a line on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = format_size(sum(step.written_bytes for step in done.steps))

    def show(written_bytes: int) -> None:
        click.echo(f"\r{format_size(written_bytes)} of {total} written  ", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo(err=True)
