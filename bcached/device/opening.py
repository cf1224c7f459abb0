"""Opening an image file or block device: what is refused, in which order, and what is learnt on the way.

Everything here blocks and runs in a thread. The kind is checked before the file is opened, since opening
alone does things to tapes, watchdogs and fifos; then it is checked again on what was really opened.
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from bcached.device import kernel_calls, occupancy, sysfs
from bcached.errors import DeviceError, DeviceRefused, calling, reason
from bcached.units import SECTOR_BYTES

# Directories under /dev in which everybody may make links.
OPEN_TO_ALL = ("/dev/shm/", "/dev/mqueue/")  # noqa: S108


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A device that is ours now, and what it is like."""

    descriptor: int
    target: str  # its path, behind links
    backing: int | None  # the locked file below a loop device
    is_block: bool
    writable: bool
    direct: bool
    size_bytes: int
    logical_block_bytes: int

    def close(self) -> None:
        """Let go of it, and of its locks."""
        os.close(self.descriptor)
        if self.backing is not None:
            os.close(self.backing)


def open_file(path: str, writable: bool, exclusive: bool, direct: bool) -> OpenFile:
    """Open the device, or raise with the reason; nothing is changed on it and nothing is created."""
    try:
        return _open_file(path, writable, exclusive, direct)
    except OSError as error:
        raise DeviceError(path, f"cannot open it: {reason(error)}") from None


def _open_file(path: str, writable: bool, exclusive: bool, direct: bool) -> OpenFile:
    target = _resolve(path)
    expected = _refuse_other_kinds(path, target)
    is_block = stat.S_ISBLK(expected.st_mode)
    if exclusive and is_block:
        occupancy.refuse_held_by_bcache(path, expected.st_rdev)
    flags = os.O_RDWR if writable else os.O_RDONLY
    if exclusive and is_block:
        flags |= os.O_EXCL  # the kernel's own claim: mounts, md, dm and bcache respect it
    descriptor = _open(path, target, flags, direct)
    backing = None
    try:
        if not os.path.samestat(expected, calling(os.fstat, descriptor)):
            raise DeviceRefused(path, "it was replaced while it was being opened")
        if exclusive:
            backing = _claim(path, descriptor, is_block)
        return _measure(path, target, descriptor, backing, is_block, writable)
    except BaseException:
        os.close(descriptor)
        if backing is not None:
            os.close(backing)
        raise


def _resolve(path: str) -> str:
    """The path to open. Links are followed only where root alone makes them: /dev/disk/by-id and the like.

    Elsewhere a link could be turned, by whoever owns it, to a disk that is not meant.
    """
    if not os.path.islink(path):
        return path
    target = os.path.realpath(path, strict=True)
    for name in (os.path.abspath(path), target):
        if not name.startswith("/dev/") or name.startswith(OPEN_TO_ALL):
            raise DeviceRefused(path, f"it is a symbolic link (to {target}), followed only under /dev")
    return target


def _refuse_other_kinds(path: str, target: str) -> os.stat_result:
    found = os.lstat(target)
    if not (stat.S_ISBLK(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise DeviceRefused(path, f"expected a block device or an image file, found a {_kind(found.st_mode)}")
    return found


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "directory", stat.S_IFCHR: "character device", stat.S_IFIFO: "fifo"}
    names |= {stat.S_IFSOCK: "socket", stat.S_IFLNK: "symbolic link"}
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
            raise DeviceRefused(path, f"in use: {occupancy.holder_of(os.stat(target).st_rdev)}") from None
        if error.errno == errno.ELOOP:
            raise DeviceRefused(path, "it became a symbolic link while it was being opened") from None
        raise


def _claim(path: str, descriptor: int, is_block: bool) -> int | None:
    """Lock it against every other user of the same bytes; gives the locked file below a loop device."""
    occupancy.lock(path, descriptor)
    if is_block:
        return occupancy.lock_backing_file(path, descriptor)
    occupancy.refuse_under_loop(path, descriptor)
    return None


def _measure(
    path: str, target: str, descriptor: int, backing: int | None, is_block: bool, writable: bool
) -> OpenFile:
    block_bytes = kernel_calls.logical_block_bytes(descriptor) if is_block else SECTOR_BYTES
    # A block device has no size in its inode, but its end can be sought like a file's.
    end: int = calling(os.lseek, descriptor, 0, os.SEEK_END)
    size_bytes = end - end % block_bytes
    if size_bytes == 0:
        raise DeviceError(path, f"expected at least one block of {block_bytes} bytes, found {end} bytes")
    direct = bool(calling(fcntl.fcntl, descriptor, fcntl.F_GETFL) & os.O_DIRECT)
    if direct and not is_block and not _takes_sectors(descriptor):
        kernel_calls.clear_direct(descriptor)
        direct = False
    return OpenFile(descriptor, target, backing, is_block, writable, direct, size_bytes, block_bytes)


def _takes_sectors(descriptor: int) -> bool:
    """Whether direct I/O on a file may begin at any sector, which is for the drive below to say.

    An image's blocks may be of 512 bytes on a drive that wants 4096. Such a file is read and written through
    the page cache, and so is one of which we cannot tell. (Trying it out does not tell: a read of a hole
    succeeds at any sector.)
    """
    block = sysfs.attribute(os.fstat(descriptor).st_dev, "queue/logical_block_size")
    return block is not None and int(block) <= SECTOR_BYTES
