# SPDX-License-Identifier: MIT
"""Advice that memory is to be backed by huge pages: else most of the time of a long read is page faults."""

import mmap
from collections.abc import Callable
from functools import cache

WORTH_BYTES = 1 << 22


def advise_huge_pages(view: memoryview) -> None:
    """Advise the kernel about the whole pages of a writable view; it may ignore that."""
    import ctypes  # noqa: PLC0415 - most programs never read a value of this length

    first = ctypes.addressof(ctypes.c_char.from_buffer(view))
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (first + view.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    _madvise()(start, length, getattr(mmap, "MADV_HUGEPAGE", 14))


@cache
def _madvise() -> Callable[[int, int, int], object]:
    import ctypes  # noqa: PLC0415 - as above

    call = ctypes.CDLL(None).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return call
