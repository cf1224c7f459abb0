# SPDX-License-Identifier: GPL-2.0-only
"""A device as it would be with some blocks changed, to be checked before they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes to be written on a member."""

    member: int
    byte: int
    data: bytes


class PatchedDevice:
    """Reads a device with patches applied in memory; never writes."""

    def __init__(self, inner: BlockDevice, patches: Iterable[Patch]) -> None:
        self.inner = inner
        self.path, self.data_path = inner.path, inner.data_path
        self.size_bytes, self.logical_block_bytes = inner.size_bytes, inner.logical_block_bytes
        self.discards = False
        self._patches: Sequence[Patch] = list(patches)

    @property
    def errors(self) -> int:
        """How many operations on the device have failed."""
        return self.inner.errors

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset, as they would be."""
        found = bytearray(await self.inner.read(offset, length))
        for patch in self._patches:
            begin, end = max(offset, patch.byte), min(offset + length, patch.byte + len(patch.data))
            if begin < end:
                found[begin - offset : end - offset] = patch.data[begin - patch.byte : end - patch.byte]
        return bytes(found)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, "cannot write: this is a read-only preview")

    async def flush(self) -> None:
        """Nothing was written."""

    async def discard(self, offset: int, length: int) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, "cannot discard: this is a read-only preview")

    async def close(self) -> None:
        """Leave the device open: its opener closes it."""
