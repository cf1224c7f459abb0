# SPDX-License-Identifier: MIT
"""Page-aligned memory, as direct I/O requires, kept from one transfer to the next."""

import mmap

PART_BYTES = 1 << 20  # beyond a mebibyte a single transfer gets no faster
KEPT_MAX = 8  # unused buffers; a page that was never written to takes no memory


class AlignedBuffers:
    """Buffers of PART_BYTES. Thread-safe: each thread takes a buffer of its own."""

    def __init__(self) -> None:
        self._kept: list[memoryview] = []

    def take(self) -> memoryview:
        """Returns a buffer with undefined contents."""
        try:
            return self._kept.pop()
        except IndexError:
            # Shared, so that a fork in the middle of a transfer leaves it where the device writes to.
            return memoryview(mmap.mmap(-1, PART_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Return a buffer to the pool."""
        if len(self._kept) < KEPT_MAX:
            self._kept.append(buffer)
