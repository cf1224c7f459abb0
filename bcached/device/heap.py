# SPDX-License-Identifier: GPL-2.0-only
"""The process heap: memory that was freed is returned to the system."""

import ctypes


def trim_heap() -> None:
    """Release free memory to the system: malloc would keep that of freed multi-megabyte columns for good.

    Not every libc has the call (glibc does).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
