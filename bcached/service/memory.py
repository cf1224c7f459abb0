# SPDX-License-Identifier: GPL-2.0-only
"""Gives memory that opening a set used temporarily back to the system."""

import ctypes


def give_back() -> None:
    """Release free memory to the system: malloc would keep that of freed multi-megabyte columns for good.

    Not every libc has the call (glibc does).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
