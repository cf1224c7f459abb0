# SPDX-License-Identifier: GPL-2.0-only
"""The few calls on a block device or image file that Python does not wrap."""

import ctypes
import fcntl
import os
import sys
from array import array
from typing import Any

from bcached.errors import calling

# <linux/fs.h>, on the architectures where _IO() has no direction bit (all but alpha, mips, powerpc, sparc).
BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKDISCARD = 0x1277

# <linux/falloc.h>
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def logical_block_bytes(descriptor: int) -> int:
    """Returns the smallest unit that a block device can write (BLKSSZGET)."""
    answer: Any = calling(fcntl.ioctl, descriptor, BLKSSZGET, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def is_read_only(descriptor: int) -> bool:
    """Whether a block device refuses writes; it may still allow opening for writing (BLKROGET)."""
    return any(fcntl.ioctl(descriptor, BLKROGET, bytes(4)))


def discard_blocks(descriptor: int, offset: int, length: int) -> None:
    """Discard a range of a block device."""
    fcntl.ioctl(descriptor, BLKDISCARD, array("Q", [offset, length]))


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Deallocate the range of a file; it then reads as zeros, and the size stays."""
    if _fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def clear_direct(descriptor: int) -> None:
    """Switch a descriptor that was opened with O_DIRECT to buffered I/O."""
    flags: int = calling(fcntl.fcntl, descriptor, fcntl.F_GETFL)
    calling(fcntl.fcntl, descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def reopened(descriptor: int, flags: int) -> int:
    """Returns a new descriptor of the same pipe, terminal or file, with its own flags; or raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC | os.O_NOCTTY)
