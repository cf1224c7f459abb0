# SPDX-License-Identifier: GPL-2.0-only
"""Whole reads and writes at an offset, through aligned memory; blocking, so for threads only.

Direct I/O needs memory aligned to a block. Each thread has one such buffer and passes everything through it,
piece by piece: memory is bounded by the number of threads, and no thread waits for a buffer.

The kernel may transfer less than requested without an error. Then the rest is requested: that either
succeeds or returns the error (no space left, an error of the device).
"""

import mmap
import os
import threading
from collections.abc import Callable

from bcached.device.block_device import BytesLike
from bcached.units import SECTOR_BYTES

# Larger single transfers are no faster, and each of the four threads holds one buffer.
BUFFER_BYTES = 1 << 20


class ShortTransferError(Exception):
    """The device transferred fewer bytes than expected, and then none: it ends there."""

    def __init__(self, offset: int, expected: int, found: int) -> None:
        super().__init__(
            f"expected {expected} bytes at {offset}, found {found}: the device ends at {offset + found} now"
        )


class _AlignedBuffer(threading.local):
    """A page-aligned buffer for each thread, allocated at its first use."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, BUFFER_BYTES))


_buffer = _AlignedBuffer()


def read_extent(descriptor: int, offset: int, length: int) -> bytes:
    """Returns all bytes of an extent; raises ShortTransferError if the device ends before."""
    pieces = []
    for begin in range(offset, offset + length, BUFFER_BYTES):
        piece = _buffer.view[: min(BUFFER_BYTES, offset + length - begin)]
        _transfer(lambda rest, at: os.preadv(descriptor, [rest], at), piece, begin)
        pieces.append(bytes(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_extent(descriptor: int, offset: int, data: BytesLike, flags: int) -> None:
    """Write all of data or raise; flags are pwritev2's."""
    source = memoryview(data).cast("B")
    for begin in range(0, source.nbytes, BUFFER_BYTES):
        piece = _buffer.view[: min(BUFFER_BYTES, source.nbytes - begin)]
        piece[:] = source[begin : begin + piece.nbytes]
        _transfer(lambda rest, at: os.pwritev(descriptor, [rest], at, flags), piece, offset + begin)


def _transfer(call: Callable[[memoryview, int], int], piece: memoryview, offset: int) -> None:
    """Read or write all of a piece, in as many calls as it takes."""
    done = 0
    while done < piece.nbytes:
        count = call(piece[done:], offset + done)
        count -= count % SECTOR_BYTES  # direct I/O can continue only at a sector boundary
        if count == 0:
            raise ShortTransferError(offset, piece.nbytes, done)
        done += count
