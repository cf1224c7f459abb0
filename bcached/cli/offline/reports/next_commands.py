# SPDX-License-Identifier: GPL-2.0-only
"""The commands to type next for a set that is damaged: what can be rescued, what a repair would do."""

import shlex
from collections.abc import Sequence

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.format.superblock_fields import BackingDevice
from bcached.store.check.checker import CheckedSet
from bcached.store.finding import Severity
from bcached.store.repair.layout_scan import LayoutFound, find_layout
from bcached.store.repair.needs import StepOption, commands_for
from bcached.store.rescue.remains.members_left import read_members_left
from bcached.units import SECTOR_BYTES, format_size

BACKING = ("--backing", "DEV")
GIVEN_SIZES = "BUCKET,BLOCK"
JOURNAL_UNREADABLE = "journal-unreadable"
ANOTHER_DEVICE = {"set-members", "member-older", "geometry"}  # is needed: these findings say which


async def next_for_damage(
    checked: CheckedSet,
    devices: Sequence[BlockDevice],
    backings: Sequence[str],
    map_options: Sequence[str] = (),
) -> list[str]:
    """Returns the commands for what a check found.

    1. None for a set that is sound, that opening repairs, or that another device is missing of. 2. A
    superblock of which no field is left. 3. A copy that lacks a part of the journal: no repair without that.
    4. Anything else that is damaged.
    """
    findings = checked.findings
    rules = {finding.rule for finding in findings.listed}
    if findings.worst < Severity.DAMAGE or rules & ANOTHER_DEVICE or _is_backing(checked):
        return []
    caches = [device.path for device in devices]
    if not checked.members and not await _are_known(devices):
        for device in devices:
            if not await _are_known([device]):
                return without_superblock(caches, await find_layout(device), backings, map_options)
    if map_options and JOURNAL_UNREADABLE in findings.counts:
        return [_rescue(caches, backings, *map_options)]
    return [_rescue(caches, backings, *map_options), *commands_for(findings, caches, map_options)]


def _is_backing(checked: CheckedSet) -> bool:
    return any(isinstance(finding.cause, BackingDevice) for finding in checked.findings.listed)


async def _are_known(devices: Sequence[BlockDevice]) -> bool:
    """Whether each has a superblock, or enough of one, or is made as the others of its set are."""
    try:
        await read_members_left(devices, None, lambda _: None)
    except BcachedError:
        return False
    return True


def without_superblock(
    caches: Sequence[str],
    layout: LayoutFound | None,
    backings: Sequence[str] = (),
    map_options: Sequence[str] = (),
) -> list[str]:
    """Returns the commands for devices that have no superblock any more, by what a journal says.

    Of several, no repair: which of them is which member has to be tried first.
    """
    if layout is None:
        return [_rescue(caches, backings, "--geometry", GIVEN_SIZES, *map_options)]
    bucket = format_size(layout.bucket_sectors * SECTOR_BYTES) if layout.bucket_sectors else "BUCKET"
    sizes = ["--geometry", f"{bucket},{format_size(layout.block_sectors * SECTOR_BYTES)}"]
    if map_options or len(caches) > 1:  # nothing can be repaired where the copy lacks it
        return [_rescue(caches, backings, *sizes, *map_options)]
    options = [StepOption.SUPERBLOCK.value, *(sizes if not layout.bucket_sectors else [])]
    options += [] if layout.set_uuid is not None else _backing(backings)
    return [
        _rescue(caches, backings, *sizes),
        shlex.join(["bcachectl", "repair", "-n", *options, *caches]),
    ]


def _backing(backings: Sequence[str]) -> list[str]:
    return ["--backing", backings[0]] if backings else list(BACKING)


def _rescue(caches: Sequence[str], backings: Sequence[str], *options: str) -> str:
    return shlex.join(["bcachectl", "rescue", "-n", *caches, *_backing(backings), *options])
