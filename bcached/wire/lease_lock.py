# SPDX-License-Identifier: MIT
"""The lock on a lease file: the kernel's `struct flock`, for F_OFD_SETLK and F_OFD_GETLK.

A read lock needs a readable descriptor, a write lock a writable one. So on a lease, which clients may only
open for reading, no client can take a lock that excludes another.
"""

import ctypes


class _Flock(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_short),
        ("whence", ctypes.c_short),  # 0: from the beginning of the file
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),  # 0: to the end of the file, also when it grows
        ("pid", ctypes.c_int),  # 0, as the F_OFD_ commands require
    )


def whole_file(kind: int) -> bytes:
    """Returns a lock of this kind (F_RDLCK, F_WRLCK) on a whole file."""
    return bytes(_Flock(kind=kind))


def kind_of(answer: bytes) -> int:
    """Returns the kind of the conflicting lock F_OFD_GETLK found; F_UNLCK if there is none."""
    return int(_Flock.from_buffer_copy(answer).kind)
