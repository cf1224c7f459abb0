# SPDX-License-Identifier: GPL-2.0-only
"""A device that passes everything on to another: what the devices that do something on the way begin with."""

from bcached.device.block_device import BlockDevice, BytesLike


class PassingDevice:
    """All verbs of a device, each that of the one inside."""

    def __init__(self, inner: BlockDevice) -> None:
        self.inner = inner

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def data_path(self) -> str:
        return self.inner.data_path

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    @property
    def logical_block_bytes(self) -> int:
        return self.inner.logical_block_bytes

    @property
    def discards(self) -> bool:
        return self.inner.discards

    @property
    def errors(self) -> int:
        return self.inner.errors

    async def read(self, offset: int, length: int) -> bytes:
        return await self.inner.read(offset, length)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        await self.inner.write(offset, data, durable=durable)

    async def flush(self) -> None:
        await self.inner.flush()

    async def discard(self, offset: int, length: int) -> None:
        await self.inner.discard(offset, length)

    async def close(self) -> None:
        await self.inner.close()
