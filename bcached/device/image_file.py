# SPDX-License-Identifier: GPL-2.0-only
"""Creating an image file: a sparse file of a given size, all zeros."""

import os
import stat

from bcached.device.claims.claim import claim
from bcached.device.claims.occupancy import refuse_under_loop
from bcached.errors import DeviceError, DeviceRefused, calling, reason

IMAGE_MODE = 0o600  # cached data may be confidential


def is_unmade(path: str) -> bool:
    """Whether there is no file, or an empty one, as a run that was killed may leave: nothing is lost."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def create_image(path: str, size_bytes: int, *, replace: bool = False) -> None:
    """Create a sparse image; with replace, an existing one that is not in use is emptied."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if replace else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, IMAGE_MODE)
    except FileExistsError:
        raise DeviceRefused(path, "it exists already") from None
    except OSError as error:
        raise DeviceError(path, f"cannot create it: {reason(error)}") from None
    try:
        _empty(path, descriptor, size_bytes)
    except OSError as error:
        if not replace:
            os.unlink(path)
        raise DeviceError(path, f"cannot make it {size_bytes} bytes long: {reason(error)}") from None
    finally:
        os.close(descriptor)


def _empty(path: str, descriptor: int, size_bytes: int) -> None:
    """Turn the file to zeros while holding the lock that users of an image hold."""
    if not stat.S_ISREG(calling(os.fstat, descriptor).st_mode):
        raise DeviceRefused(path, "expected a regular file or no file, found a file of another kind")
    claim(path, descriptor)
    refuse_under_loop(path, descriptor)
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size_bytes)
    calling(os.fsync, descriptor)
