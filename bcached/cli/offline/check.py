# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl check`: everything on a set's devices, read and checked, with fsck's exit status."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.fsck_command import FsckCommand, FsckStatus
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Interrupted
from bcached.cli.offline.consent import progress_line, reading_line, search_line
from bcached.cli.offline.copy_map import MAP, CopyMaps, read_maps
from bcached.cli.offline.devices import opened, warn_if_partitioned, warn_if_used
from bcached.cli.offline.reports.finding_document import finding_document
from bcached.cli.offline.reports.journal_end import end_line, end_word
from bcached.cli.offline.reports.next_commands import next_for_damage, without_superblock
from bcached.cli.offline.reports.owner_report import next_commands, owner_document, owner_lines
from bcached.cli.paths import PATH
from bcached.device.block_device import BlockDevice
from bcached.format.label import printable_label
from bcached.store.check.checker import CheckedSet
from bcached.store.check.key_check import VolumeSectors
from bcached.store.check.steady_check import SteadyCheck, check_steadily
from bcached.store.finding import Severity
from bcached.store.repair.former_set import find_former_set
from bcached.store.rescue.backing_check import check_beside_unused
from bcached.store.rescue.owner_check import OwnerCheck, OwnerQuestion
from bcached.units import SECTOR_BYTES, format_size


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What is asked for."""

    devices: Sequence[str]
    backings: Sequence[str]
    with_data: bool
    copy_maps: CopyMaps
    in_use: bool

    @property
    def is_of_owner(self) -> bool:
        """Whether more is asked for than whether the set is sound."""
        return bool(self.backings) or self.with_data or bool(self.copy_maps.maps)


@click.command(
    cls=FsckCommand,
    epilog=examples(
        "bcachectl check cache.img",
        "bcachectl --json check /dev/sdx | jq '.findings[]'",
        "bcachectl check /dev/sdc --backing /dev/sdb           is it the right one, and what does it lack?",
        "bcachectl check /dev/sdc --backing /dev/sdb --data    read all data, compare what is clean",
    )
    + "\n\nExit status, as fsck's: 0 sound, 4 errors found, 8 could not be checked, 16 usage, 130 by Ctrl-C.",
)
@click.argument("devices", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--backing", "backings", metavar="DEV", type=PATH, multiple=True, help="A backing device of the set."
)
@click.option("--data", "with_data", is_flag=True, help="Read all data, too, and compare it with DEV's.")
@MAP
@pass_options
def check(
    options: GlobalOptions,
    devices: tuple[str, ...],
    *,
    backings: tuple[str, ...],
    with_data: bool,
    maps: tuple[str, ...],
) -> None:
    """Check everything on CACHE, also one that the kernel wrote, and change nothing.

    Name all devices of a set. Reports which structure is wrong, where, and what is lost by it. A set in use
    is read again if anything is wrong, and only findings that remain count. With any of the options, reports
    for each volume how much dirty data there is, and how sure it is.
    """
    warnings = warn_if_used([*devices, *backings])
    try:
        copy_maps = read_maps(maps, devices)
        request = CheckRequest(devices, backings, with_data, copy_maps, in_use=bool(warnings))
        steady, owner, following = run_interruptibly(_check(request, warnings))
    except KeyboardInterrupt:
        raise Interrupted("interrupted: a check changes nothing") from None
    checked = steady.checked
    if steady.passing:
        warnings.append(
            f"read {steady.readings} times: {steady.passing} findings were not there again, since the set is "
            "being written"
        )
        click.echo(f"bcachectl: {warnings[-1]}", err=True)
    document = _document(checked, warnings) | owner_document(owner) | {"next": following}
    answer(options, document, lambda: "\n".join(_lines(checked, owner, following)))
    status = FsckStatus.SOUND if checked.findings.sound else FsckStatus.ERRORS_LEFT
    click.get_current_context().exit(status)


async def _check(
    request: CheckRequest, warnings: list[str]
) -> tuple[SteadyCheck, OwnerCheck | None, list[str]]:
    """Returns the check, the answer to the owner if that was asked for, and the commands to type next."""
    async with opened(request.devices) as caches, opened(request.backings) as backings:
        devices, about_map = request.copy_maps.applied(caches)
        warnings += about_map
        with reading_line() as node_read:
            steady = await check_steadily(devices, in_use=request.in_use, node_read=node_read)
        owner = await _answer_owner(request, steady, devices, backings, warnings)
        if steady.checked.is_fresh:
            return steady, owner, await _next_for_former_set(steady.checked, request.backings)
        options = request.copy_maps.options
        others = {backing.path for backing in owner.backings if not backing.fits} if owner else set()
        fitting = [path for path in request.backings if path not in others]
        following = await next_for_damage(steady.checked, devices, fitting, options)
        if not steady.checked.members and (about_tables := warn_if_partitioned(request.devices)):
            warnings += about_tables
            following = [command for command in following if not command.startswith("bcachectl repair")]
        rescues = next_commands(owner, request.devices, options)
        return steady, owner, rescues + following[1:] if rescues else following


async def _next_for_former_set(checked: CheckedSet, backings: Sequence[str]) -> list[str]:
    """Returns the commands for the sets that were on devices of one that was never in use."""
    following: list[str] = []
    for member in checked.members:
        layout = await find_former_set(member.block_device, member.superblock, checked.findings.report)
        if layout is not None:
            following += without_superblock([member.path], layout, backings)
    return following


async def _answer_owner(
    request: CheckRequest,
    steady: SteadyCheck,
    devices: Sequence[BlockDevice],
    backings: Sequence[BlockDevice],
    warnings: list[str],
) -> OwnerCheck | None:
    if request.is_of_owner and steady.checked.is_fresh:
        set_uuid, report = steady.checked.members[0].superblock.set_uuid, steady.checked.findings.report
        return OwnerCheck(
            backings=[await check_beside_unused(backing, set_uuid, report) for backing in backings]
        )
    if request.is_of_owner:
        question = OwnerQuestion(backings, request.with_data, compare=not request.in_use)
        if request.with_data and request.backings and request.in_use:
            warnings.append("clean data is not compared with a backing device while one of them is in use")
            click.echo(f"bcachectl: {warnings[-1]}", err=True)
        totals, report = steady.checked.totals, steady.checked.findings.report
        sectors = totals.dirty_sectors + totals.clean_sectors
        with (
            progress_line(sectors, "read") as show,
            search_line() as question.searched,
            reading_line() as question.node_read,
        ):
            return await question.answer(devices, report, lambda done: show(done.sectors))
    return None


def _lines(checked: CheckedSet, owner: OwnerCheck | None, following: Sequence[str]) -> Iterator[str]:
    """Yields the contents, the findings, the answer to the owner, the verdict, and the next commands."""
    yield from _facts(checked)
    yield from owner_lines(owner)
    for finding in checked.findings.listed:
        yield str(finding)
    for rule, count in checked.findings.unlisted().items():
        yield f"and {count} more of the kind {rule}"
    wrong = sum(finding.severity > Severity.NOTE for finding in checked.findings.listed)
    wrong += sum(checked.findings.unlisted().values())
    yield "sound" if checked.findings.sound else f"NOT SOUND: {wrong} found wrong"
    yield from (f"next: {command}" for command in following)


def _facts(checked: CheckedSet) -> Iterator[str]:
    for member in checked.members:
        superblock = member.superblock
        bucket = format_size(superblock.bucket_bytes)
        yield f"device {superblock.member}: {member.path}, {superblock.bucket_count} buckets of {bucket}"
    if checked.members:
        yield f"set: {checked.members[0].superblock.set_uuid}"
    if checked.is_fresh:
        yield "not in use yet: it holds nothing"
    if checked.journal is not None and checked.journal.entries:
        entries = checked.journal.entries
        keys = sum(len(entry.keys) for entry in entries)
        yield f"journal: entries {entries[0].seq} to {entries[-1].seq}, {keys} keys to replay"
        yield end_line(checked.journal)
    if checked.tree is not None:
        levels = sorted(checked.tree.nodes_by_level.items(), reverse=True)
        nodes = ", ".join(f"{count} of level {level}" for level, count in levels)
        yield f"tree: nodes: {nodes or 'none'}"
        totals = checked.totals
        stale = totals.keys - totals.live_keys
        yield (
            f"keys: {totals.live_keys} live, {stale} stale; {_size(totals.dirty_sectors)} dirty, "
            f"{_size(totals.clean_sectors)} clean"
        )
    for inode, volume in enumerate(checked.volumes):
        if volume is not None and not volume.is_burnt:
            held = checked.totals.volumes.get(inode, VolumeSectors())
            kind = f"flash-only of {_size(volume.sectors)}" if volume.flash_only else "cached"
            yield (
                f"volume {inode}: {printable_label(volume.label) or volume.uuid}, {kind}; {held.keys} keys, "
                f"{_size(held.dirty_sectors)} dirty, {_size(held.clean_sectors)} clean"
            )


def _size(sectors: int) -> str:
    return format_size(sectors * SECTOR_BYTES)


def _document(checked: CheckedSet, warnings: list[str]) -> dict[str, object]:
    totals, journal = checked.totals, checked.journal
    entries = journal.entries if journal else []
    return {
        "sound": checked.findings.sound,
        "worst": checked.findings.worst.name.lower(),
        "findings": [finding_document(finding) for finding in checked.findings.listed],
        "findings_not_listed": checked.findings.unlisted(),
        "warnings": warnings,
        "set_uuid": str(checked.members[0].superblock.set_uuid) if checked.members else None,
        "devices": [
            {"device": member.superblock.member, "path": member.path, "uuid": str(member.superblock.uuid)}
            for member in checked.members
        ],
        "fresh": checked.is_fresh,
        "journal": {
            "last_seq": entries[0].seq if entries else None,
            "seq": entries[-1].seq if entries else None,
            "keys": sum(len(entry.keys) for entry in entries),
            "end": end_word(journal) if journal and entries else None,
        },
        "nodes": checked.tree.nodes_by_level.total() if checked.tree else 0,
        "levels": len(checked.tree.nodes_by_level) if checked.tree else 0,
        "keys": totals.keys,
        "live_keys": totals.live_keys,
        "dirty_sectors": totals.dirty_sectors,
        "clean_sectors": totals.clean_sectors,
        "volumes": [
            {
                "inode": inode,
                "uuid": str(volume.uuid),
                "label": printable_label(volume.label),
                "flash_only": volume.flash_only,
                "sectors": volume.sectors,
                "owner": None if volume.owner is None else str(volume.owner),
                "maker": volume.maker,
                **_held(totals.volumes.get(inode, VolumeSectors())),
            }
            for inode, volume in enumerate(checked.volumes)
            if volume is not None and not volume.is_burnt
        ],
    }


def _held(held: VolumeSectors) -> dict[str, int]:
    return {
        "live_keys": held.keys,
        "dirty_sectors": held.dirty_sectors,
        "clean_sectors": held.clean_sectors,
    }
