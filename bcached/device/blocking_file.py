# SPDX-License-Identifier: GPL-2.0-only
"""The operations of a device as blocking calls, and the failure that ends all writing."""

import errno
import os
from collections.abc import Sequence
from dataclasses import replace

from bcached.device import kernel_calls
from bcached.device.aligned_io import ShortTransferError, read_extent, write_extent
from bcached.device.block_device import BytesLike
from bcached.device.opening import OpenFile
from bcached.device.sampling import EMPTY_SECTOR
from bcached.errors import FlushFailed, calling, reason
from bcached.units import SECTOR_BYTES

NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class BlockingFile:
    """An open file, used from a few threads.

    The kernel reports a lost write once, to one caller: a second flush, or a concurrent one, would succeed.
    So flushes and durable writes must run in one thread, where a failure is recorded before the next such
    call starts. A durable write counts because its error does not tell whether the write or the flush failed.
    """

    def __init__(self, path: str, file: OpenFile) -> None:
        self._path = path
        self._file = file
        self._failure: str | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Returns the bytes of the extent; reads whole logical blocks where these exceed a sector."""
        block_bytes = self._file.logical_block_bytes
        begin = offset - offset % block_bytes
        end = offset + length + -(offset + length) % block_bytes
        found = read_extent(self._file.descriptor, begin, end - begin)
        return found if end - begin == length else found[offset - begin : offset - begin + length]

    def read_sectors(self, offsets: Sequence[int]) -> list[bytes | None]:
        """Returns the sector at each offset, in ascending order; None for one that cannot be read.

        Where the file has no data all of them are zeros, and none is read.
        """
        found: list[bytes | None] = []
        data_begins = 0
        for offset in offsets:
            if offset >= data_begins:
                data_begins = self._data_from(offset)
            if offset + SECTOR_BYTES <= data_begins:
                found.append(EMPTY_SECTOR)
                continue
            try:
                found.append(self.read(offset, SECTOR_BYTES))
            except (OSError, ShortTransferError):
                found.append(None)
        return found

    def _data_from(self, offset: int) -> int:
        """Returns where the next data begins at the earliest, or where the file ends without any."""
        if self._file.is_block:
            return offset
        try:
            return os.lseek(self._file.descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            # Behind the last data; a file that was made shorter since is not read as zeros.
            end = os.fstat(self._file.descriptor).st_size if error.errno == errno.ENXIO else offset
            return max(offset, end)

    def write(self, offset: int, data: BytesLike) -> None:
        """Write all of data; a power cut may still undo it."""
        self.refuse_if_failed()
        self._refuse_if_shrunk()
        write_extent(self._file.descriptor, offset, data, 0)

    def write_durably(self, offset: int, data: BytesLike) -> None:
        """Write all of data and return when it is durable; a failure is permanent."""
        self.refuse_if_failed()
        try:
            self._refuse_if_shrunk()
            write_extent(self._file.descriptor, offset, data, os.RWF_DSYNC)
        except (OSError, ShortTransferError) as error:
            self._fail(f"cannot write {len(data)} bytes durably at {offset}", error)

    def flush(self) -> None:
        """Make durable what was written before; a failure is permanent."""
        self.refuse_if_failed()
        try:
            os.fdatasync(self._file.descriptor)
        except OSError as error:
            self._fail("cannot flush", error)

    def discard(self, offset: int, length: int) -> bool:
        """Discard the extent; returns False if the device does not support it."""
        self.refuse_if_failed()
        discard = kernel_calls.discard_blocks if self._file.is_block else kernel_calls.punch_hole
        try:
            discard(self._file.descriptor, offset, length)
        except OSError as error:
            if error.errno in NOT_SUPPORTED:
                return False
            raise
        return True

    def change_size(self, size_bytes: int) -> None:
        """Make an image file longer or shorter, durably."""
        self.refuse_if_failed()
        os.ftruncate(self._file.descriptor, size_bytes)
        calling(os.fsync, self._file.descriptor)
        self._file = replace(self._file, size_bytes=size_bytes)

    def close(self) -> None:
        """Close the descriptors."""
        self._file.close()

    def refuse_if_failed(self) -> None:
        """Raises FlushFailed if a flush or a durable write has ever failed."""
        if self._failure is not None:
            raise FlushFailed(self._path, self._failure)

    def _fail(self, what: str, error: Exception) -> None:
        self._failure = f"{what}: {reason(error)}; nothing more is written"
        self.refuse_if_failed()

    def _refuse_if_shrunk(self) -> None:
        """Raises OSError for a truncated file, which a write would extend; a block device fails by itself."""
        if self._file.is_block:
            return
        found = calling(os.fstat, self._file.descriptor).st_size
        if found < self._file.size_bytes:
            raise OSError(errno.EIO, f"expected a file of {self._file.size_bytes} bytes, found {found}")
