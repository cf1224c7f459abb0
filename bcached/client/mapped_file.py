# SPDX-License-Identifier: MIT
"""The daemon's files that clients map read-only."""

import mmap
import os

from bcached.errors import DeviceError, calling, reason


def map_file(path: str, length: int, what: str) -> memoryview:
    """Returns a file's first bytes, mapped while they are referenced. Raises DeviceError, naming `what`."""
    try:
        descriptor: int = calling(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapping: mmap.mmap = calling(mmap.mmap, descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise DeviceError(path, f"cannot map {what}: {reason(error)}") from None
    return memoryview(mapping)
