# SPDX-License-Identifier: GPL-2.0-only
"""Files that a user names beside the devices: none that has no end, or that only waits."""

import os
import stat

from bcached.device.opening import kind_of
from bcached.errors import DeviceRefused
from bcached.units import format_size

TEXT_BYTES_MAX = 64 << 20  # a map of ddrescue with a million blocks has half of that
OPEN_PIPES = ("/dev/", "/proc/")  # where a shell has those of <(command)


def refuse_no_file(path: str) -> None:
    """Raises DeviceRefused at anything but a file, or a pipe of the shell's. OSError if it is not there."""
    mode = os.stat(path).st_mode
    is_pipe = stat.S_ISFIFO(mode) and path.startswith(OPEN_PIPES)
    if not (stat.S_ISREG(mode) or is_pipe):
        raise DeviceRefused(path, f"expected a file, found a {kind_of(mode)}")


def text_lines(path: str) -> list[str]:
    """Returns the lines of a text file. Raises DeviceRefused if it is longer than any that is meant."""
    refuse_no_file(path)
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        text = file.read(TEXT_BYTES_MAX + 1)
    if len(text) > TEXT_BYTES_MAX:
        raise DeviceRefused(
            path, f"expected a text file of at most {format_size(TEXT_BYTES_MAX)}, found more"
        )
    lines = text.split("\n")  # splitlines() takes characters for ends of lines that may be in a file's name
    return lines if lines[-1] else lines[:-1]
