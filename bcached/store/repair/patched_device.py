"""A device as it would be with some blocks changed, to look at before they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bcached.device.block_device import BlockDevice, BytesLike, DeviceStatistics
from bcached.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes to be written on a member."""

    member: int
    byte: int
    data: bytes


class PatchedDevice:
    """Reads what is on a device, with patches laid over it; never writes."""

    def __init__(self, inner: BlockDevice, patches: Iterable[Patch]) -> None:
        self.inner = inner
        self.path, self.data_path = inner.path, inner.data_path
        self.size_bytes, self.logical_block_bytes = inner.size_bytes, inner.logical_block_bytes
        self.discards = False
        self._patches: Sequence[Patch] = list(patches)

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes at offset, as they would be."""
        found = bytearray(await self.inner.read(offset, length))
        for patch in self._patches:
            begin, end = max(offset, patch.byte), min(offset + length, patch.byte + len(patch.data))
            if begin < end:
                found[begin - offset : end - offset] = patch.data[begin - patch.byte : end - patch.byte]
        return bytes(found)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Not here."""
        raise DeviceError(self.path, "cannot write: it is only looked at")

    async def flush(self) -> None:
        """Nothing was written."""

    async def discard(self, offset: int, length: int) -> None:
        """Not here."""
        raise DeviceError(self.path, "cannot discard: it is only looked at")

    async def close(self) -> None:
        """Leave the device to the caller, who opened it."""

    def statistics(self) -> DeviceStatistics:
        """What has been done on the device so far."""
        return self.inner.statistics()
