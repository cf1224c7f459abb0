# SPDX-License-Identifier: GPL-2.0-only
"""Attributes of a block device in sysfs."""

import os


def directory(device_number: int) -> str:
    """Returns the block device's directory in sysfs."""
    return os.path.realpath(f"/sys/dev/block/{os.major(device_number)}:{os.minor(device_number)}")


def attribute(device_number: int, name: str) -> str | None:
    """Returns an attribute of the device, or of the disk whose partition it is; None if neither has it."""
    own = directory(device_number)
    for block in (own, os.path.dirname(own)):
        if (found := first_line(f"{block}/{name}")) is not None:
            return found
    return None


def first_line(path: str) -> str | None:
    """Returns the first line of a file of sysfs; None if it does not exist or was removed meanwhile."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.readline().rstrip("\n")
    except OSError:
        return None
