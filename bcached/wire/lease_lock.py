"""The lock on a lease file, as the kernel takes it: `struct flock`, for F_OFD_SETLK and F_OFD_GETLK.

A read lock needs a descriptor that may read, a write lock one that may write. So on a lease, which clients
may only read, none of them can take a lock that keeps another one out.
"""

import ctypes


class _Flock(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_short),
        ("whence", ctypes.c_short),  # 0: from the beginning of the file
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),  # 0: to its end, wherever that will be
        ("pid", ctypes.c_int),  # 0, as open file descriptions demand
    )


def whole_file(kind: int) -> bytes:
    """A lock of this kind (F_RDLCK, F_WRLCK) on all of a file."""
    return bytes(_Flock(kind=kind))


def kind_of(answer: bytes) -> int:
    """Which lock F_OFD_GETLK found in the way; F_UNLCK if none."""
    return int(_Flock.from_buffer_copy(answer).kind)
