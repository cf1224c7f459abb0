# SPDX-License-Identifier: GPL-2.0-only
"""--map: devices that are copies, and the maps of ddrescue that say what each copy lacks."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import click

from bcached.cli.paths import PATH
from bcached.device.block_device import BlockDevice
from bcached.device.text_file import text_lines
from bcached.errors import SetRefused
from bcached.store.rescue.ddrescue_map import DdrescueMap, parse_map
from bcached.store.unread_device import UnreadDevice
from bcached.units import format_size

MAP = click.option(
    "--map",
    "maps",
    metavar="[DEV=]FILE",
    type=PATH,
    multiple=True,
    help="A ddrescue map: which parts of CACHE were not read. With several devices, one for each DEV of them "
    "that is a copy.",
)


@dataclass(frozen=True, slots=True)
class CopyMaps:
    """The maps of some of the named devices, by the numbers of these."""

    maps: dict[int, DdrescueMap] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)  # the same for another command

    def applied(self, devices: Sequence[BlockDevice]) -> tuple[list[BlockDevice], list[str]]:
        """Returns the devices, those with a map as copies that it describes; and warnings, which it shows."""
        warnings = [
            warning for number, found in self.maps.items() for warning in _doubts(found, devices[number])
        ]
        for warning in warnings:
            click.echo(f"bcachectl: {warning}", err=True)
        return [self._copy(number, device) for number, device in enumerate(devices)], warnings

    def _copy(self, number: int, device: BlockDevice) -> BlockDevice:
        if number not in self.maps:
            return device
        found = self.maps[number]
        return UnreadDevice(device, found.unread_sectors(device.size_bytes), found.path)


def read_maps(texts: Sequence[str], paths: Sequence[str]) -> CopyMaps:
    """Returns what the maps, each [DEV=]FILE, say of these devices. Raises SetRefused if one is none.

    Outside of a loop: a pipe may keep it waiting, and Ctrl-C ends that.
    """
    files: dict[int, str] = {}
    for text in texts:
        number, file = _named(text, paths)
        if number in files:
            raise SetRefused(
                f"{paths[number]}: two maps are named for it, {files[number]} and {file}: name one a device"
            )
        if file in files.values():
            raise SetRefused(f"{file}: named as the map of two devices: each copy has its own")
        files[number] = file
    options = [option for text in texts for option in ("--map", text)]
    return CopyMaps({number: parse_map(text_lines(file), file) for number, file in files.items()}, options)


def _named(text: str, paths: Sequence[str]) -> tuple[int, str]:
    """Returns the number of the device and the file of [DEV=]FILE.

    1. DEV is one of the devices, under this name or another. 2. There is only one device.
    """
    for name, file in _partings(text):
        for number, path in enumerate(paths):
            if name == path or _are_same(name, path):
                return number, file
    if len(paths) == 1:
        return 0, text
    raise SetRefused(
        f"--map {text}: a map is of one device, and {len(paths)} are named: expected DEV=FILE, with DEV one "
        f"of {', '.join(paths)}"
    )


def _partings(text: str) -> Iterator[tuple[str, str]]:
    """Yields what is in front of each equals sign, and what is behind it: a path may have some, too."""
    for place, letter in enumerate(text):
        if letter == "=":
            yield text[:place], text[place + 1 :]


def _are_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _doubts(found: DdrescueMap, device: BlockDevice) -> Iterator[str]:
    """Yields why a map may not be that of a copy."""
    if found.copied_end > device.size_bytes:
        copied, there = format_size(found.copied_end), format_size(device.size_bytes)
        yield (
            f"{found.path} says that data up to {copied} was copied, and {device.path} ends at {there}: is "
            "it this copy's map? What is missing counts as unreadable"
        )
