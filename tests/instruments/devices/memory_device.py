# SPDX-License-Identifier: GPL-2.0-only
"""A device in memory: the interface and guarantees of a real one, without a file or a thread."""

import asyncio
import mmap

from bcached.device.block_device import BytesLike, check_extent
from bcached.errors import DeviceError, DeviceRefused
from bcached.units import SECTOR_BYTES

# Memory is not set aside: a test may have a device of terabytes and touch a few pages of it.
MAP_NORESERVE = 0x4000
ZEROS = memoryview(bytes(1 << 20))


class MemoryDisk:
    """The bytes of a memory device; they persist when it is closed."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes > 0
        assert size_bytes % SECTOR_BYTES == 0
        self._memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
        self.contents = memoryview(self._memory)
        self.is_open = False


class MemoryDevice:
    """A device whose bytes are memory.

    Every operation yields to the loop once, as on a real device, so that operations that may overlap do.
    Closing keeps the bytes: `reopen()` returns a new device on them, which simulates a restart.
    """

    def __init__(
        self,
        size_bytes: int,
        logical_block_bytes: int = SECTOR_BYTES,
        *,
        path: str = "memory",
        disk: MemoryDisk | None = None,
    ) -> None:
        assert logical_block_bytes >= SECTOR_BYTES
        assert logical_block_bytes.bit_count() == 1
        assert size_bytes % logical_block_bytes == 0
        self.path = path
        self.size_bytes = size_bytes
        self.logical_block_bytes = logical_block_bytes
        self.discards = True
        self.disk = disk or MemoryDisk(size_bytes)
        if self.disk.is_open:
            raise DeviceRefused(path, "in use: it is open already")
        self.disk.is_open = True
        self._closed = False
        self.errors = 0
        self.reads = self.writes = 0  # that were done

    @classmethod
    def holding(cls, image: BytesLike, logical_block_bytes: int = SECTOR_BYTES) -> "MemoryDevice":
        """Returns a device with a copy of these bytes as its contents."""
        device = cls(len(image), logical_block_bytes)
        device.disk.contents[:] = image
        return device

    @property
    def data_path(self) -> str:
        """The path at which clients would open it."""
        return self.path

    def reopen(self) -> "MemoryDevice":
        """Returns a new device on the same bytes; raises DeviceRefused while this one is still open."""
        return MemoryDevice(self.size_bytes, self.logical_block_bytes, path=self.path, disk=self.disk)

    def image(self) -> bytes:
        """Returns a copy of all bytes."""
        return bytes(self.disk.contents)

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset."""
        self._check("read", offset, length)
        found = bytes(self.disk.contents[offset : offset + length])
        self.reads += 1
        await asyncio.sleep(0)
        return found

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Write all of data at offset; durable makes no difference in memory."""
        source = memoryview(data).cast("B")
        self._check("write", offset, source.nbytes)
        assert offset % self.logical_block_bytes == 0
        assert source.nbytes % self.logical_block_bytes == 0
        self.disk.contents[offset : offset + source.nbytes] = source
        self.writes += 1
        await asyncio.sleep(0)

    async def flush(self) -> None:
        """Memory has nothing to flush."""
        self._refuse_if_closed()
        await asyncio.sleep(0)

    async def discard(self, offset: int, length: int) -> None:
        """Turn the bytes to zeros, as an image file does."""
        self._check("discard", offset, length)
        for begin in range(offset, offset + length, ZEROS.nbytes):
            end = min(begin + ZEROS.nbytes, offset + length)
            self.disk.contents[begin:end] = ZEROS[: end - begin]
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the device; the bytes stay for `reopen()`."""
        if not self._closed:
            self._closed = True
            self.disk.is_open = False
        await asyncio.sleep(0)

    def _check(self, verb: str, offset: int, length: int) -> None:
        self._refuse_if_closed()
        check_extent(self, verb, offset, length)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise DeviceError(self.path, "the device is closed")
