# SPDX-License-Identifier: GPL-2.0-only
"""Opening an image file or block device: refusals and their order, and the properties found.

Everything here blocks and runs in a thread. The kind is checked before the file is opened, since opening
alone has effects on tapes, watchdogs and fifos; then it is checked again on the open descriptor.
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from bcached.device import kernel_calls, sysfs
from bcached.device.claims import occupancy
from bcached.device.claims.claim import claim, claim_backing_file, claimed_elsewhere
from bcached.device.claims.lock_holders import Process
from bcached.errors import DeviceError, DeviceRefused, calling, reason
from bcached.units import SECTOR_BYTES

# World-writable directories under /dev, in which any user may create links.
OPEN_TO_ALL = ("/dev/shm/", "/dev/mqueue/")  # noqa: S108

# Why the kernel refuses to open a file for writing, and the remedy.
NOT_WRITABLE = {
    errno.EROFS: "its file system is mounted read-only: mount it read-write",
    errno.EPERM: "it may be immutable or append-only: `lsattr` shows that, `chattr -i -a` removes it",
    errno.EACCES: "the user with id {user} needs permission to read and write it, and to reach it; "
    "a block device may also be read-only itself (`blockdev --getro` prints 1)",
}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An opened device and its properties."""

    descriptor: int
    target: str  # its path, links resolved
    backing: int | None  # the locked file below a loop device
    is_block: bool
    writable: bool
    direct: bool
    size_bytes: int
    logical_block_bytes: int

    def close(self) -> None:
        """Close it and release its locks."""
        os.close(self.descriptor)
        if self.backing is not None:
            os.close(self.backing)


class Opening:
    """The steps of opening a device: open, claim, measure.

    What is open stays open between attempts: closing a block device would make udev probe it again.
    """

    def __init__(self, path: str, *, writable: bool, exclusive: bool, direct: bool) -> None:
        self.path = path
        self.ignored: list[Process] = []  # hold a lock that does not count
        self._writable, self._exclusive, self._direct = writable, exclusive, direct
        self._target = path
        self._is_block = False
        self._descriptor: int | None = None
        self._backing: int | None = None

    def attempt(self) -> OpenFile:
        """Returns the open device; nothing on it is changed and nothing is created.

        Raises DeviceBusy if the next attempt may succeed, DeviceRefused or DeviceError otherwise.
        """
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            if self._exclusive:
                self._claim(self._descriptor)
            return self._measure(self._descriptor)
        except OSError as error:
            is_open = self._descriptor is not None  # then it is writable, and another call failed
            if self._writable and not is_open and error.errno in NOT_WRITABLE:
                raise DeviceRefused(self.path, _read_only(f"{reason(error)}; {_remedy(error)}")) from None
            raise DeviceError(self.path, f"cannot open it: {reason(error)}") from None

    def close(self) -> None:
        """Close the descriptors that are open."""
        for descriptor in (self._descriptor, self._backing):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._backing = None

    def _open(self) -> int:
        self._target = _resolve(self.path)
        expected = _refuse_other_kinds(self.path, self._target)
        self._is_block = stat.S_ISBLK(expected.st_mode)
        flags = os.O_RDWR if self._writable else os.O_RDONLY
        if self._exclusive and self._is_block:
            occupancy.refuse_held_by_bcache(self.path, expected.st_rdev)
            flags |= os.O_EXCL  # the kernel's own claim: mounts, md, dm and bcache respect it
        descriptor = _open(self.path, self._target, flags, self._direct)
        if not os.path.samestat(expected, calling(os.fstat, descriptor)):
            os.close(descriptor)
            raise DeviceRefused(self.path, "it was replaced while it was being opened")
        if self._writable and self._is_block and kernel_calls.is_read_only(descriptor):
            os.close(descriptor)
            remedy = "`blockdev --setrw` changes that unless it, or the device below, is write-protected"
            raise DeviceRefused(self.path, _read_only(f"the block device is read-only; {remedy}"))
        return descriptor

    def _claim(self, descriptor: int) -> None:
        """Lock the device, and the file below a loop device, against other users of the same bytes."""
        self.ignored = claim(self.path, descriptor)
        if self._is_block:
            if self._backing is None:
                self._backing = claim_backing_file(self.path, descriptor)
        else:
            occupancy.refuse_under_loop(self.path, descriptor)
        if not os.path.samestat(os.lstat(self._target), calling(os.fstat, descriptor)):
            raise DeviceRefused(self.path, "it was replaced while its lock was waited for")

    def _measure(self, descriptor: int) -> OpenFile:
        block_bytes = kernel_calls.logical_block_bytes(descriptor) if self._is_block else SECTOR_BYTES
        # A block device has no size in its inode, but its end can be sought like a file's.
        end: int = calling(os.lseek, descriptor, 0, os.SEEK_END)
        size_bytes = end - end % block_bytes
        if size_bytes == 0:
            raise DeviceError(
                self.path, f"expected at least one block of {block_bytes} bytes, found {end} bytes"
            )
        return OpenFile(
            descriptor,
            self._target,
            self._backing,
            self._is_block,
            self._writable,
            self._is_direct(descriptor),
            size_bytes,
            block_bytes,
        )

    def _is_direct(self, descriptor: int) -> bool:
        """Whether I/O bypasses the page cache; turns that off where it is not possible at every sector."""
        direct = bool(calling(fcntl.fcntl, descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        if direct and not self._is_block and not _takes_sectors(descriptor):
            kernel_calls.clear_direct(descriptor)
            return False
        return direct


def _read_only(why: str) -> str:
    """Returns the message for a device that cannot be opened for writing."""
    return f"cannot open it for writing: {why}. `bcachectl check`, `dump` and `show` can read it as it is"


def _remedy(error: OSError) -> str:
    """Returns the remedy for a failed open with an errno of NOT_WRITABLE."""
    return NOT_WRITABLE[error.errno or 0].format(user=os.geteuid())


def _resolve(path: str) -> str:
    """Returns the path to open. Links are followed only where root alone creates them, as in /dev/disk/by-id.

    Elsewhere the owner of a link could redirect it to another disk.
    """
    if not os.path.islink(path):
        return path
    target = os.path.realpath(path, strict=True)
    for name in (os.path.abspath(path), target):
        if not name.startswith("/dev/") or name.startswith(OPEN_TO_ALL):
            raise DeviceRefused(path, f"it is a symbolic link, followed only under /dev: name {target}")
    return target


def _refuse_other_kinds(path: str, target: str) -> os.stat_result:
    found = os.lstat(target)
    if not (stat.S_ISBLK(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise DeviceRefused(
            path, f"expected a block device or an image file, found a {kind_of(found.st_mode)}"
        )
    return found


def kind_of(mode: int) -> str:
    """Returns the name of the kind of file that a mode says."""
    names = {stat.S_IFDIR: "directory", stat.S_IFCHR: "character device", stat.S_IFIFO: "fifo"}
    names |= {stat.S_IFSOCK: "socket", stat.S_IFLNK: "symbolic link", stat.S_IFBLK: "block device"}
    return names.get(stat.S_IFMT(mode), "file of another kind")


def _open(path: str, target: str, flags: int, direct: bool) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if direct:
            try:
                return os.open(target, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: this file system has no direct I/O
                    raise
        return os.open(target, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise claimed_elsewhere(path, os.stat(target)) from None
        if error.errno == errno.ELOOP:
            raise DeviceRefused(path, "it became a symbolic link while it was being opened") from None
        raise


def _takes_sectors(descriptor: int) -> bool:
    """Whether direct I/O on a file may begin at any sector, which depends on the drive below.

    An image may have blocks of 512 bytes on a drive with blocks of 4096. Such a file is read and written
    through the page cache, and so is one whose drive is unknown. (A trial proves nothing: a read of a hole
    succeeds at any sector.)
    """
    block = sysfs.attribute(calling(os.fstat, descriptor).st_dev, "queue/logical_block_size")
    return block is not None and int(block) <= SECTOR_BYTES
