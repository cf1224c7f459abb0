# SPDX-License-Identifier: GPL-2.0-only
"""Claiming a device against every program that may own it, and ignoring the locks of all others.

Clients open an image too, to read and write their data, and flock needs no more than an open file. So a lock
counts by its user: root, the daemon's user and the file's owner could run a daemon on the image or format it,
and their locks are respected; a lock of any other user is ignored. Of those that count, a daemon's is
permanent, and that of another program (udev probing, a copy being made) is waited for.

A block device also has the kernel's own claim (O_EXCL), which mounts, md, dm and bcache take, too.
"""

import fcntl
import os
import stat
from contextlib import suppress

from bcached.device import sysfs
from bcached.device.claims.lock_holders import WRITE, LockHolder, Process, flock_holders, openers
from bcached.device.claims.occupancy import kernel_use_of
from bcached.errors import DeviceBusy, DeviceRefused, calling

DAEMON = "bcached"  # the command name of a process that serves a set
OPEN_HERE = "in use: this process has it open already, under this name or another"


def claim(path: str, descriptor: int) -> list[Process]:
    """Lock the file; returns the holders that are ignored. DeviceRefused or DeviceBusy if one counts.

    1. The lock was free, and is taken.
    2. It is held by a process that counts, or by an unknown one.
    3. All holders are other users' processes. They prevent an exclusive lock, as they would have for another
       daemon, which is therefore searched among the processes that have the file open.
    """
    if _try_lock(descriptor, fcntl.LOCK_EX):
        return []
    file = calling(os.fstat, descriptor)
    holders = flock_holders(descriptor)
    for holder in holders:
        if _may_own(holder.process, file):
            raise _refusal(path, holder)
    if not holders:  # the holder is in another container, or has released it
        raise DeviceBusy(path, "in use: another process has locked it")
    refuse_served(path, file)
    _try_lock(descriptor, fcntl.LOCK_SH)
    return [holder.process for holder in holders]


def claim_backing_file(path: str, descriptor: int) -> int | None:
    """Returns a locked descriptor of a loop device's backing file; None if there is none, or no access."""
    backing_path = sysfs.attribute(calling(os.fstat, descriptor).st_rdev, "loop/backing_file")
    if backing_path is None:
        return None
    try:
        backing = os.open(backing_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        claim(path, backing)
    except DeviceRefused as error:
        os.close(backing)
        raise type(error)(path, f"its backing file {backing_path} is {error.reason}") from None
    return backing


def claimed_elsewhere(path: str, node: os.stat_result) -> DeviceRefused:
    """Returns why a block device cannot be opened with O_EXCL.

    1. A mount, swap or a device on top uses it, a daemon serves it, or this process has it open: refused.
    2. Another process, or an unknown use of the kernel: busy, and may end.
    """
    use = kernel_use_of(node.st_rdev)
    if use is not None:
        return DeviceRefused(path, f"in use: {use}")
    refuse_served(path, node)
    users = list(openers(node))
    if any(user.pid == os.getpid() for user in users):
        return DeviceRefused(path, OPEN_HERE)
    seen = f"; it is open in {', '.join(map(str, users))}" if users else ""
    return DeviceBusy(path, f"in use: another process or the kernel has it open exclusively{seen}")


def refuse_served(path: str, file: os.stat_result) -> None:
    """Raises DeviceRefused if another daemon has the device open, under any name."""
    for user in openers(file):
        if user.command == DAEMON and user.pid != os.getpid() and _may_own(user, file):
            raise DeviceRefused(path, f"in use: {user} serves it")


def refuse_writers(path: str) -> None:
    """Raises DeviceRefused if another process may still write to the device, as a daemon's former client."""
    for user in openers(os.stat(path), to_write=True):
        if user.pid != os.getpid():
            raise DeviceRefused(path, f"in use: {user} has it open for writing")


def be_known_as_daemon() -> None:
    """Set the command name by which daemons recognise each other, however this process was started."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as command:
        command.write(DAEMON)


def user_of(path: str) -> Process | str | None:
    """Returns the process, or the part of the kernel, that uses a device; None if none is visible.

    Trying the lock would show it, too, but could keep a daemon from starting at that moment.
    """
    with suppress(OSError):
        file = os.stat(path)
        if stat.S_ISBLK(file.st_mode) and os.path.lexists(f"{sysfs.directory(file.st_rdev)}/bcache"):
            return "the kernel's bcache"
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            users = [holder.process for holder in flock_holders(descriptor) if holder.kind == WRITE]
        finally:
            os.close(descriptor)
        users += [user for user in openers(file) if user.command == DAEMON]
        return next(iter(users), None)
    return None


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        calling(fcntl.flock, descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _may_own(process: Process, file: os.stat_result) -> bool:
    """Whether the process may run a daemon on the file or format it; true if its user is hidden."""
    if process.has_ended:  # the daemon and bcached's other programs hold their locks themselves
        return False
    return process.uid is None or process.uid in {0, os.geteuid(), file.st_uid}


def _refusal(path: str, holder: LockHolder) -> DeviceRefused:
    process = holder.process
    if process.pid == os.getpid() and holder.kind == WRITE:
        return DeviceRefused(path, OPEN_HERE)
    kind = DeviceRefused if process.command == DAEMON else DeviceBusy
    return kind(path, f"in use: {process} has locked it")
