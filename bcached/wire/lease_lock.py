# SPDX-License-Identifier: MIT
"""The lock on a lease file: the kernel's `struct flock`, for F_OFD_SETLK and F_OFD_GETLK.

A read lock needs a readable descriptor, a write lock a writable one. So on a lease, which clients may only
open for reading, no client can take a lock that excludes another.
"""

import sys

KIND_BYTES = 2  # l_type, a short at the beginning
REST = bytes(30)  # from the beginning of the file to its end, also when it grows; no pid, as F_OFD_ requires


def whole_file(kind: int) -> bytes:
    """Returns a lock of this kind (F_RDLCK, F_WRLCK) on a whole file."""
    return kind.to_bytes(KIND_BYTES, sys.byteorder) + REST


def kind_of(answer: bytes) -> int:
    """Returns the kind of the conflicting lock F_OFD_GETLK found; F_UNLCK if there is none."""
    return int.from_bytes(answer[:KIND_BYTES], sys.byteorder)
