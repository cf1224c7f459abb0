"""A device in memory: the same verbs and promises as a real one, without a file or a thread."""

import asyncio
import mmap

from bcached.device.block_device import BytesLike, DeviceStatistics, check_extent
from bcached.device.counters import Counters
from bcached.errors import DeviceError, DeviceRefused
from bcached.units import SECTOR_BYTES

# Memory is not set aside: a test may have a device of terabytes and touch a few pages of it.
MAP_NORESERVE = 0x4000
ZEROS = memoryview(bytes(1 << 20))


class MemoryDisk:
    """The bytes of a memory device; they outlive its closing, as a disk outlives a daemon."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes > 0
        assert size_bytes % SECTOR_BYTES == 0
        self._memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
        self.contents = memoryview(self._memory)
        self.is_open = False


class MemoryDevice:
    """A device whose bytes are memory.

    Every verb lets the loop turn once, as a real device would, so that what may overlap does.
    Closing leaves the bytes: `reopen()` gives a new device on them, which is how a restart is played.
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
        self._counters = Counters()

    @classmethod
    def holding(cls, image: BytesLike, logical_block_bytes: int = SECTOR_BYTES) -> "MemoryDevice":
        """A device that starts with a copy of these bytes, and is exactly as large."""
        device = cls(len(image), logical_block_bytes)
        device.disk.contents[:] = image
        return device

    @property
    def data_path(self) -> str:
        """Where clients would find it."""
        return self.path

    def reopen(self) -> "MemoryDevice":
        """The same bytes, opened anew; refused while this device is still open."""
        return MemoryDevice(self.size_bytes, self.logical_block_bytes, path=self.path, disk=self.disk)

    def image(self) -> bytes:
        """A copy of all bytes as they are now."""
        return bytes(self.disk.contents)

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes at offset."""
        self._check("read", offset, length)
        found = bytes(self.disk.contents[offset : offset + length])
        self._counters.count_read(length)
        await asyncio.sleep(0)
        return found

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Write all of data at offset; memory is as durable one way as the other."""
        source = memoryview(data).cast("B")
        self._check("write", offset, source.nbytes)
        assert offset % self.logical_block_bytes == 0
        assert source.nbytes % self.logical_block_bytes == 0
        self.disk.contents[offset : offset + source.nbytes] = source
        self._counters.count_write(source.nbytes)
        await asyncio.sleep(0)

    async def flush(self) -> None:
        """Nothing to be done: what was written is there."""
        self._refuse_if_closed()
        self._counters.flushes += 1
        await asyncio.sleep(0)

    async def discard(self, offset: int, length: int) -> None:
        """Turn the bytes to zeros, as an image file does."""
        self._check("discard", offset, length)
        for begin in range(offset, offset + length, ZEROS.nbytes):
            end = min(begin + ZEROS.nbytes, offset + length)
            self.disk.contents[begin:end] = ZEROS[: end - begin]
        self._counters.count_discard(length)
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Let go of the bytes; they stay for whoever reopens them."""
        if not self._closed:
            self._closed = True
            self.disk.is_open = False
        await asyncio.sleep(0)

    def statistics(self) -> DeviceStatistics:
        """What has been done so far."""
        return self._counters.snapshot()

    def _check(self, verb: str, offset: int, length: int) -> None:
        self._refuse_if_closed()
        check_extent(self, verb, offset, length)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise DeviceError(self.path, "the device is closed")
