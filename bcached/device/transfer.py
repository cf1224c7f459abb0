"""Whole reads and writes at a place, through aligned memory; blocking, so for threads only.

Direct I/O wants memory that starts on a block. Each thread has one buffer that does and passes everything
through it, piece by piece: memory is bounded by the number of threads, and nobody waits for a buffer.
"""

import mmap
import os
import threading

from bcached.device.block_device import BytesLike

# Beyond a mebibyte a single transfer gets no faster, and four threads then hold four of them.
BUFFER_BYTES = 1 << 20


class ShortTransferError(Exception):
    """The device took or gave fewer bytes than there should be: it has shrunk, or is failing."""

    def __init__(self, offset: int, expected: int, found: int) -> None:
        super().__init__(f"expected {expected} bytes at {offset}, found {found}")


class _AlignedBuffer(threading.local):
    """A page-aligned buffer for each thread, made when the thread first needs it."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, BUFFER_BYTES))


_buffer = _AlignedBuffer()


def read_extent(descriptor: int, offset: int, length: int) -> bytes:
    """All of the bytes of an extent, or ShortTransferError."""
    pieces = []
    for begin in range(offset, offset + length, BUFFER_BYTES):
        piece = _buffer.view[: min(BUFFER_BYTES, offset + length - begin)]
        found = os.preadv(descriptor, [piece], begin)
        if found != piece.nbytes:
            raise ShortTransferError(begin, piece.nbytes, found)
        pieces.append(bytes(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_extent(descriptor: int, offset: int, data: BytesLike, flags: int) -> None:
    """Write all of data, or raise; flags are pwritev2's."""
    source = memoryview(data).cast("B")
    for begin in range(0, source.nbytes, BUFFER_BYTES):
        piece = _buffer.view[: min(BUFFER_BYTES, source.nbytes - begin)]
        piece[:] = source[begin : begin + piece.nbytes]
        written = os.pwritev(descriptor, [piece], offset + begin, flags)
        if written != piece.nbytes:
            raise ShortTransferError(offset + begin, piece.nbytes, written)
