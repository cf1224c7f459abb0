# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl repair`: repair a set on its devices, by steps that the user names."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.fsck_command import FsckCommand, FsckStatus, WronglyUsed
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.offline.check import finding_document
from bcached.cli.offline.devices import opened
from bcached.cli.paths import PATH
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import Severity
from bcached.store.repair.repair import RepairStep, check_patched, clear_journal_behind, write_steps


@dataclass(slots=True)
class Repair:
    """The findings, the repair steps, and the findings after them."""

    before: CheckedSet
    steps: list[RepairStep] = field(default_factory=list)
    after: CheckedSet | None = None
    is_done: bool = False

    @property
    def changes(self) -> bool:
        """Whether the steps write anything."""
        return any(step.patches for step in self.steps)

    @property
    def status(self) -> FsckStatus:
        """Returns fsck's status: whether there were errors, and whether they are corrected."""
        if self.is_done and self.after is not None and self.after.findings.sound:
            return FsckStatus.CORRECTED
        if not self.changes and self.before.findings.sound:
            return FsckStatus.SOUND
        return FsckStatus.ERRORS_LEFT


@click.command(
    cls=FsckCommand,
    epilog=examples(
        "bcachectl repair cache.img                                   what could be done",
        "bcachectl repair -n --clear-journal-behind 6 cache.img       what would be given up",
        "bcachectl repair --yes --clear-journal-behind 6 cache.img",
    )
    + "\n\nExit status, as fsck's: 0 sound, 1 corrected, 4 errors remain, 8 could not be done, "
    "16 usage.",
)
@click.argument("devices", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--clear-journal-behind",
    "seq",
    metavar="SEQ",
    type=click.IntRange(min=1),
    help="Go back to journal entry SEQ: nothing newer is left on any member.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Print what each step would do and lose; change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@pass_options
def repair(
    options: GlobalOptions, devices: tuple[str, ...], seq: int | None, dry_run: bool, yes: bool
) -> None:
    """Repair the set on CACHE (name all its devices), which no daemon may use.

    Only the steps that are named are done. Each one first prints what is lost by it.
    """
    done = asyncio.run(_repair(options, devices, seq, dry_run=dry_run, yes=yes))
    answer(options, _document(done), lambda: "\n".join(_lines(done)))
    click.get_current_context().exit(done.status)


async def _repair(
    options: GlobalOptions, paths: Sequence[str], seq: int | None, *, dry_run: bool, yes: bool
) -> Repair:
    changes = seq is not None and not dry_run
    async with opened(paths, to_change=changes) as devices:
        done = Repair(await check_set(devices))
        if seq is not None:
            done.steps.append(await clear_journal_behind(done.before, seq))
        if not done.changes:
            return done
        done.after = await check_patched(devices, done.before, done.steps)
        if dry_run:
            return done
        _ask(options, done, yes=yes)
        await write_steps(done.before.members, done.steps)
        done.is_done = True
        done.after = await check_set(devices)
    return done


def _ask(options: GlobalOptions, done: Repair, *, yes: bool) -> None:
    """Get the user's consent, on a terminal or by --yes."""
    if yes:
        return
    if options.as_json or not sys.stdin.isatty():
        raise WronglyUsed(
            "it changes what is on the devices for good: say --yes, or -n to see what it would do"
        )
    click.echo("\n".join(_steps(done)), err=True)
    click.confirm("Go on?", abort=True, err=True)


def _steps(done: Repair) -> list[str]:
    lines = []
    for step in done.steps:
        blocks = len(step.patches)
        lines.append(f"{step.what}: {f'{blocks} blocks' if blocks else 'nothing to do'}")
        lines += [f"  gives up: {what}" for what in step.gives_up]
    return lines


def _lines(done: Repair) -> list[str]:
    """Returns lines on the steps and the findings after them; without steps, on what could be done."""
    lines = _steps(done)
    found = done.after or done.before
    lines += [str(finding) for finding in found.findings.listed if finding.severity > Severity.NOTE]
    then = {(True, True): "sound now", (True, False): "still NOT SOUND"}
    then |= {(False, True): "would be sound then", (False, False): "would NOT be sound then"}
    if done.after is not None:
        lines.append(then[done.is_done, found.findings.sound])
    else:
        lines.append("sound" if found.findings.sound else "NOT SOUND: nothing was done")
    return lines


def _document(done: Repair) -> dict[str, object]:
    found = done.after or done.before
    return {
        "done": done.is_done,
        "steps": [
            {"what": step.what, "gives_up": step.gives_up, "blocks": len(step.patches)} for step in done.steps
        ],
        "sound_before": done.before.findings.sound,
        "sound": found.findings.sound,
        "findings": [finding_document(finding) for finding in found.findings.listed],
    }
