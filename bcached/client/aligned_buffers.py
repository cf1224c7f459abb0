"""Memory that starts on a page, as direct I/O asks for, kept from one transfer to the next."""

import mmap

PART_BYTES = 1 << 20  # beyond a mebibyte a single transfer gets no faster
KEPT_MAX = 8  # buffers without use; a page that was never written to takes no memory


class AlignedBuffers:
    """Buffers of PART_BYTES. Safe to use from several threads: each takes one of its own."""

    def __init__(self) -> None:
        self._kept: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer; what is in it is of no meaning."""
        try:
            return self._kept.pop()
        except IndexError:
            # Shared, so that a fork in the middle of a transfer leaves it where the device writes to.
            return memoryview(mmap.mmap(-1, PART_BYTES))

    def give(self, buffer: memoryview) -> None:
        """It is of no more use for now."""
        if len(self._kept) < KEPT_MAX:
            self._kept.append(buffer)
