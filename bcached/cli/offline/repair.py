# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl repair`: repair a set on its devices, by steps that the user names."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.fsck_command import FsckCommand, WronglyUsed
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.offline.devices import opened
from bcached.cli.offline.repair_report import document, lines, status_of, step_lines
from bcached.cli.paths import PATH
from bcached.store.repair.applying import Progress
from bcached.store.repair.journal_clearing import clear_journal_behind
from bcached.store.repair.repair import Repair
from bcached.store.repair.undo import Undo, UndoLog
from bcached.units import format_size


@dataclass(frozen=True, slots=True)
class Request:
    """The command's arguments."""

    caches: tuple[str, ...]
    seq: int | None
    dry_run: bool
    yes: bool
    undo: str | None

    @property
    def names_steps(self) -> bool:
        """Whether any step is named."""
        return self.seq is not None


@click.command(
    cls=FsckCommand,
    epilog=examples(
        "bcachectl repair cache.img                                   what could be done",
        "bcachectl repair -n --clear-journal-behind 6 cache.img       what would be given up",
        "bcachectl repair --undo cache.undo --clear-journal-behind 6 cache.img",
        "bcachectl repair --restore cache.undo                        all as it was before",
    )
    + "\n\nExit status, as fsck's: 0 sound, 1 corrected, 4 errors remain, 8 could not be done, "
    "16 usage.",
)
@click.argument("devices", metavar="CACHE...", type=PATH, nargs=-1)
@click.option(
    "--clear-journal-behind",
    "seq",
    metavar="SEQ",
    type=click.IntRange(min=1),
    help="Go back to journal entry SEQ: nothing newer is left on any member.",
)
@click.option("--undo", metavar="FILE", type=PATH, help="Save what is overwritten in a new FILE first.")
@click.option("--restore", metavar="FILE", type=PATH, help="Undo a repair, also one that was interrupted.")
@click.option("-n", "--dry-run", is_flag=True, help="Print what each step would do and lose; change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@pass_options
def repair(
    options: GlobalOptions,
    devices: tuple[str, ...],
    seq: int | None,
    undo: str | None,
    restore: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Repair the set on CACHE (name all its devices), which no daemon may use.

    Only the steps that are named are done. Each one first prints what is lost by it. --restore writes back
    what a FILE of --undo holds, to the devices it names, or to CACHE if they have other names now.
    """
    request = Request(devices, seq, dry_run, yes, undo)
    if restore is not None:
        if request.names_steps or undo is not None or dry_run:
            raise WronglyUsed("--restore goes with no step, -n or --undo")
        asyncio.run(_restore(options, restore, devices))
        return
    if not devices:
        raise WronglyUsed("expected CACHE..., or --restore FILE")
    done = asyncio.run(_repair(options, request))
    answer(options, document(done), lambda: "\n".join(lines(done)))
    click.get_current_context().exit(status_of(done))


async def _repair(options: GlobalOptions, request: Request) -> Repair:
    async with opened(request.caches, to_change=request.names_steps and not request.dry_run) as devices:
        done = await Repair.of(devices)
        if request.seq is not None:
            step = await clear_journal_behind(done.before, request.seq)
            done.add(step, done.before.members)
        await done.preview()
        if request.dry_run or not done.is_needed:
            return done
        _ask(options, request, done)
        undo = await UndoLog.create(request.undo, devices) if request.undo is not None else None
        try:
            with _progress(done) as progress:
                await done.write(undo, progress)
        finally:
            if undo is not None:
                undo.log.close()
    return done


def _ask(options: GlobalOptions, request: Request, done: Repair) -> None:
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
    click.confirm("Go on?", abort=True, err=True)


async def _restore(options: GlobalOptions, path: str, devices: tuple[str, ...]) -> None:
    undo = Undo.read(path)
    paths = devices or tuple(named.path for named in undo.devices)
    if len(paths) != len(undo.devices):
        raise WronglyUsed(f"expected the {len(undo.devices)} devices of {path}, found {len(paths)}")
    async with opened(paths, to_change=True) as opened_devices:
        size = await undo.restore(opened_devices)
    restored = {"restored_bytes": size, "devices": list(paths)}
    answer(options, restored, lambda: f"restored {format_size(size)} on {', '.join(paths)}")


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
