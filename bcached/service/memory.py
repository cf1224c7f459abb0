"""Memory that opening a set took for a while, given back to the system."""

import ctypes


def give_back() -> None:
    """Give back what is free: after columns of megabytes have come and gone, malloc keeps theirs for good.

    Not every libc has the call (glibc does).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
