# SPDX-License-Identifier: GPL-2.0-only
"""--map: a device that is a copy, and the map of ddrescue that says what the copy lacks."""

from collections.abc import Sequence

import click

from bcached.cli.paths import PATH
from bcached.device.block_device import BlockDevice
from bcached.device.text_file import text_lines
from bcached.errors import SetRefused
from bcached.store.rescue.ddrescue_map import DdrescueMap, parse_map
from bcached.store.rescue.unread_device import UnreadDevice
from bcached.units import format_size

MAP = click.option(
    "--map",
    "map_path",
    metavar="FILE",
    type=PATH,
    help="A ddrescue map: which parts of CACHE were not read.",
)


def read_map(path: str | None) -> DdrescueMap | None:
    """Returns what the map says, if there is one. Raises SetRefused if the file is none.

    Outside of a loop: a pipe may keep it waiting, and Ctrl-C ends that.
    """
    return None if path is None else parse_map(text_lines(path), path)


def as_mapped(
    devices: Sequence[BlockDevice], found: DdrescueMap | None
) -> tuple[list[BlockDevice], list[str]]:
    """Returns the devices, the only one as a copy that its map describes, and warnings about the map.

    Raises SetRefused if there are several devices.
    """
    if found is None:
        return list(devices), []
    if len(devices) != 1:
        raise SetRefused(f"{found.path}: a map is of one device, and {len(devices)} are named")
    (device,) = devices
    warnings = []
    if found.copied_end > device.size_bytes:
        copied, there = format_size(found.copied_end), format_size(device.size_bytes)
        warnings.append(
            f"{found.path} says that data up to {copied} was copied, and {device.path} ends at {there}: is "
            "it this copy's map? What is missing counts as unreadable"
        )
        click.echo(f"bcachectl: {warnings[-1]}", err=True)
    return [UnreadDevice(device, found.unread_sectors(device.size_bytes), found.path)], warnings
