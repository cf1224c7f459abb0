# SPDX-License-Identifier: MIT
"""Reads of long values in place: into the memory of the bytes object that is returned, without a copy.

What the page cache lacks is requested from the devices for all extents, before the first is waited for.
"""

import errno
import os
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from bcached.client.data.huge_pages import WORTH_BYTES, advise_huge_pages
from bcached.client.data.parts_left import Buffers, PartsLeft

NOT_IN_MEMORY = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)  # or the file system cannot tell
LONG_BYTES = 1 << 18  # from here on it is faster than several reads that are joined
AHEAD_BYTES = 1 << 20  # of one request: the kernel reads no more ahead than a device's limit at once


class FileRange(NamedTuple):
    """Bytes of an open device or image."""

    descriptor: int
    at: int  # byte of the device
    length: int


class ScatteredRead:
    """A head, and the value behind it."""

    def __init__(self, head_bytes: int, value_bytes: int) -> None:
        self.head = bytearray(head_bytes)
        self._memory = BytesIO(bytes(value_bytes))  # of the zero page, until it is written to
        self._view = self._memory.getbuffer()
        if value_bytes >= WORTH_BYTES:
            advise_huge_pages(self._view)

    def fill(self, places: Sequence[FileRange]) -> None:
        """Read head and value from these places, one behind the other. Raises OSError."""
        parts_left = PartsLeft((self.head, self._view))
        wanted = [(one, parts_left.take(one.length)) for one in places]
        for number, (place, parts) in enumerate(wanted):
            done = _read_cached(place, parts)
            if done < place.length:
                _read_the_rest(wanted[number:], done)
                return

    def value(self, length: int) -> bytes:
        """Returns the value's first bytes, at the end: nothing is read any more."""
        self._view.release()
        self._memory.truncate(length)
        return self._memory.getvalue()  # the same object, not a copy


def _read_cached(place: FileRange, parts: Buffers) -> int:
    """Returns how many bytes were in the page cache."""
    try:
        return os.preadv(place.descriptor, parts, place.at, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in NOT_IN_MEMORY:
            raise
        return 0


def _read_the_rest(wanted: Sequence[tuple[FileRange, Buffers]], done: int) -> None:
    for place, _ in wanted:
        for start in range(0, place.length, AHEAD_BYTES):
            length = min(AHEAD_BYTES, place.length - start)
            os.posix_fadvise(place.descriptor, place.at + start, length, os.POSIX_FADV_WILLNEED)
    for place, parts in wanted:
        while done < place.length:
            rest = PartsLeft(parts)
            rest.take(done)
            count = os.preadv(place.descriptor, rest.take(place.length - done), place.at + done)
            if not count:
                raise OSError(errno.EIO, "the device ends before the extent does")
            done += count
        done = 0
