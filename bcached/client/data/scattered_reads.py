# SPDX-License-Identifier: MIT
"""Reads of long values in place: into the memory of the bytes object that is returned, without a copy.

What the page cache lacks is requested from the devices for all extents, before the first is waited for. The
checksum of an extent is computed as soon as it is read: while it is in the processor's cache, and the devices
are busy with the next ones.
"""

import errno
import os
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import NamedTuple

from bcached.client.data.huge_pages import WORTH_BYTES, advise_huge_pages
from bcached.client.data.parts_left import Buffers, PartsLeft

NOT_IN_MEMORY = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)  # or the file system cannot tell
LONG_BYTES = 1 << 18  # from here on it is faster than several reads that are joined
AHEAD_BYTES = 1 << 20  # of one request: the kernel reads no more ahead than a device's limit at once


Checksum = Callable[["bytes | bytearray | memoryview", int], int]  # of bytes, behind those with a checksum


class FileRange(NamedTuple):
    """Bytes of an open device or image."""

    descriptor: int
    at: int  # byte of the device
    length: int


class ScatteredRead:
    """A head, and the value behind it."""

    def __init__(
        self, head_bytes: int, value_bytes: int, checksum_of: Checksum, *, checked_at: int = 0
    ) -> None:
        """checked_at: where in the head the bytes begin that have the checksum."""
        self.head = bytearray(head_bytes)
        self._checksum_of, self._checked_at = checksum_of, checked_at
        self._bytes_read = 0
        # How much of the value is in the checksum, and that, None without the head; before the last extent.
        self._summed: tuple[int, int | None] = (0, None)
        self._summed_before: tuple[int, int | None] = (0, None)
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
                self._read_the_rest(wanted[number:], done)
                return
            self._sum(place.length)

    def checksum(self, length: int) -> int:
        """Returns the checksum of the head, from checked_at on, and of the value's first bytes."""
        at, crc = self._summed if self._summed[0] <= length else self._summed_before
        if at > length or crc is None:
            at, crc = 0, self._checksum_of_head()
        return self._checksum_of(self._view[at:length], crc)

    def value(self, length: int) -> bytes:
        """Returns the value's first bytes, at the end: nothing is read any more."""
        self._view.release()
        self._memory.truncate(length)
        return self._memory.getvalue()  # the same object, not a copy

    def _read_the_rest(self, wanted: Sequence[tuple[FileRange, Buffers]], done: int) -> None:
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
            self._sum(place.length)
            done = 0

    def _sum(self, length: int) -> None:
        """Add an extent of so many bytes, which was read, to the checksum."""
        self._bytes_read += length
        end = self._bytes_read - len(self.head)
        if end >= 0:
            self._summed_before = at, crc = self._summed
            before = self._checksum_of_head() if crc is None else crc
            self._summed = end, self._checksum_of(self._view[at:end], before)

    def _checksum_of_head(self) -> int:
        return self._checksum_of(self.head[self._checked_at :], 0)


def _read_cached(place: FileRange, parts: Buffers) -> int:
    """Returns how many bytes were in the page cache."""
    try:
        return os.preadv(place.descriptor, parts, place.at, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in NOT_IN_MEMORY:
            raise
        return 0
