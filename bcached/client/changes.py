# SPDX-License-Identifier: MIT
"""The change counters, mapped read-only: they tell without a request whether a look-up still holds."""

import mmap
import os

from bcached.errors import DeviceError, calling, reason
from bcached.wire.change_map import ChangeMap
from bcached.wire.messages import ChangeMapFile


def mapped_changes(file: ChangeMapFile) -> ChangeMap:
    """Returns the counters, mapped while they are referenced. Raises DeviceError, BadMagic or BadField."""
    try:
        descriptor: int = calling(os.open, file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapping: mmap.mmap = calling(mmap.mmap, descriptor, file.bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise DeviceError(file.path, f"cannot map the change counters: {reason(error)}") from None
    return ChangeMap.parse(memoryview(mapping), file.path)
