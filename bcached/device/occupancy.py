"""Who else uses a device: the kernel's bcache, a loop device, a mount, or another process.

An image file and the loop device on top of it are one set of bytes under two names, and neither flock
nor O_EXCL on one says anything about the other. So an image that is a loop device's backing file is
refused, and whoever opens a loop device locks its backing file as well.
"""

import errno
import fcntl
import glob
import os
import stat
import time
from contextlib import suppress

from bcached.device import sysfs
from bcached.errors import DeviceRefused, calling

# udev holds a shared lock for moments while it looks at a device that has just changed.
LOCK_PATIENCE_S = 1.0
LOCK_RETRY_S = 0.02


def refuse_held_by_bcache(path: str, device_number: int) -> None:
    """Raise if the kernel's bcache has registered the device, as cache or as backing device."""
    if os.path.lexists(f"{sysfs.directory(device_number)}/bcache"):
        raise DeviceRefused(path, "in use: the kernel's bcache holds it (stop its cache set first)")


def refuse_under_loop(path: str, descriptor: int) -> None:
    """Raise if the file is the backing file of a loop device."""
    ours = os.fstat(descriptor)
    for attribute in glob.glob("/sys/block/loop*/loop/backing_file"):
        backing_path = sysfs.first_line(attribute)
        with suppress(OSError):  # the backing file may be gone, or hidden from us
            if backing_path and os.path.samestat(ours, os.stat(backing_path)):
                raise DeviceRefused(path, f"in use through /dev/{attribute.split('/')[3]}")


def holder_of(device_number: int) -> str:
    """What keeps a block device busy, in words for a message."""
    directory = sysfs.directory(device_number)
    holders = sorted(os.path.basename(holder) for holder in glob.glob(f"{directory}/holders/*"))
    if holders:
        return f"held by {', '.join(holders)}"
    number = f"{os.major(device_number)}:{os.minor(device_number)}"
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for fields in map(str.split, mounts):
            if fields[2] == number:
                return f"mounted on {fields[4]}"
    return "another process or the kernel has it open exclusively"


def user_of(path: str) -> str | None:
    """Who uses a device, in words; None if nobody does, as far as can be seen without touching it.

    Trying the lock would tell too, and could keep a daemon from starting in just that moment.
    """
    try:
        found = os.stat(path)
        if stat.S_ISBLK(found.st_mode) and os.path.lexists(f"{sysfs.directory(found.st_rdev)}/bcache"):
            return "the kernel's bcache"
        return _locker_of(found, "WRITE")
    except OSError:
        return None


def locked(path: str, descriptor: int) -> DeviceRefused:
    """The refusal of a device that another process has locked, and which one as far as the kernel tells."""
    who = None
    with suppress(OSError):
        who = _locker_of(os.fstat(descriptor), "WRITE", "READ")
    return DeviceRefused(path, f"in use: {who or 'another process'} has locked it")


def _locker_of(file: os.stat_result, *kinds: str) -> str | None:
    """Who holds a lock of these kinds on a file; a process of another namespace has no number here."""
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    with open("/proc/locks", encoding="ascii") as locks:
        for fields in map(str.split, locks):
            if fields[1:3] == ["FLOCK", "ADVISORY"] and fields[3] in kinds and fields[5] == place:
                return f"process {fields[4]}" if int(fields[4]) > 0 else "another process"
    return None


def lock(path: str, descriptor: int) -> None:
    """Take the lock that every careful program takes before it touches a device, or refuse."""
    is_block = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    deadline = time.monotonic() + (LOCK_PATIENCE_S if is_block else 0)
    while True:
        try:
            return calling(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            if time.monotonic() >= deadline:
                raise locked(path, descriptor) from None
        time.sleep(LOCK_RETRY_S)


def lock_backing_file(path: str, descriptor: int) -> int | None:
    """A locked descriptor of the file below a loop device; None if it is none, or is out of our reach."""
    backing_path = sysfs.attribute(os.fstat(descriptor).st_rdev, "loop/backing_file")
    if backing_path is None:
        return None
    try:
        backing = os.open(backing_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(backing, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(backing)
        raise DeviceRefused(path, f"in use: its backing file {backing_path} is locked") from None
    return backing
