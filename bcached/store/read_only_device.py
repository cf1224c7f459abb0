# SPDX-License-Identifier: GPL-2.0-only
"""A device that is read otherwise than as it is, and never changed."""

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.errors import DeviceError


class ReadOnlyDevice:
    """Passes reads on, unless a subclass has its own; `why` says why nothing can be changed."""

    why: str

    def __init__(self, inner: BlockDevice) -> None:
        self.inner = inner
        self.path, self.data_path = inner.path, inner.data_path
        self.size_bytes, self.logical_block_bytes = inner.size_bytes, inner.logical_block_bytes
        self.discards = False

    @property
    def errors(self) -> int:
        """How many operations on the device have failed."""
        return self.inner.errors

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset."""
        return await self.inner.read(offset, length)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, f"cannot write: {self.why}")

    async def flush(self) -> None:
        """Nothing was written."""

    async def discard(self, offset: int, length: int) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, f"cannot discard: {self.why}")

    async def close(self) -> None:
        """Leave the device open: its opener closes it."""
