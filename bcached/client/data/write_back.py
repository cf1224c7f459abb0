# SPDX-License-Identifier: MIT
"""Has the kernel begin to write dirty pages to the device, before the flush that waits for them."""

from collections.abc import Callable
from functools import cache

_BEGIN = 2  # SYNC_FILE_RANGE_WRITE, of linux/fs.h


def begin_write_back(descriptor: int, at: int, length: int) -> None:
    """Begin with these bytes of a file; they stay in the page cache.

    Only advice: an error of the device is reported by the next flush, and a C library without the call is no
    error.
    """
    _sync_file_range()(descriptor, at, length, _BEGIN)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], object]:
    import ctypes  # noqa: PLC0415 - most programs never store a value of this length

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return lambda *_: None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call  # type: ignore[no-any-return]
