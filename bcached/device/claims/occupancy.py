# SPDX-License-Identifier: GPL-2.0-only
"""Uses of a device by the kernel itself: its bcache, a loop device, a mount, swap, md or dm.

An image file and the loop device on top of it are one set of bytes under two names, and neither flock
nor O_EXCL on one has any effect on the other. So an image that is a loop device's backing file is
refused, and a loop device is opened with a lock on its backing file (`claim.py`).
"""

import glob
import os
from contextlib import suppress

from bcached.device import sysfs
from bcached.errors import DeviceRefused


def refuse_held_by_bcache(path: str, device_number: int) -> None:
    """Raises DeviceRefused if the kernel's bcache has registered the device, as cache or backing device."""
    if os.path.lexists(f"{sysfs.directory(device_number)}/bcache"):
        raise DeviceRefused(path, "in use: the kernel's bcache holds it (stop its cache set first)")


def refuse_under_loop(path: str, descriptor: int) -> None:
    """Raises DeviceRefused if the file is the backing file of a loop device."""
    ours = os.fstat(descriptor)
    for attribute in glob.glob("/sys/block/loop*/loop/backing_file"):
        backing_path = sysfs.first_line(attribute)
        with suppress(OSError):  # the backing file may be removed, or not accessible
            if backing_path and os.path.samestat(ours, os.stat(backing_path)):
                raise DeviceRefused(path, f"in use through /dev/{attribute.split('/')[3]}")


def kernel_use_of(device_number: int) -> str | None:
    """Returns why the kernel keeps a block device busy, for a message; None if unknown."""
    directory = sysfs.directory(device_number)
    holders = sorted(os.path.basename(holder) for holder in glob.glob(f"{directory}/holders/*"))
    if holders:
        return f"held by {', '.join(holders)}"
    number = f"{os.major(device_number)}:{os.minor(device_number)}"
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for fields in map(str.split, mounts):
            if fields[2] == number:
                return f"mounted on {fields[4]}"
    with suppress(OSError), open("/proc/swaps", encoding="utf-8", errors="replace") as swaps:
        for path in (line.split()[0] for line in swaps):
            with suppress(OSError):
                if os.stat(path).st_rdev == device_number:
                    return "it is swap space"
    return None
