# SPDX-License-Identifier: GPL-2.0-only
"""The interface of every device."""

from typing import Protocol, TypeAlias

from bcached.errors import DeviceError
from bcached.units import SECTOR_BYTES

BytesLike: TypeAlias = bytes | bytearray | memoryview


class BlockDevice(Protocol):
    """A device of fixed size, addressed in bytes by multiples of a sector.

    Operations may overlap, and those that do have no order among themselves. All raise DeviceError;
    once a flush or a durable write has failed, every write, flush and discard raises FlushFailed.
    A cancelled operation ends only when nothing of it is in flight any more.
    """

    @property
    def path(self) -> str:
        """The device's name in messages."""

    @property
    def data_path(self) -> str:
        """The path at which a client opens the same device; links are resolved, as they may change."""

    @property
    def size_bytes(self) -> int:
        """The size at opening: growth is ignored, and a device that shrinks gives errors."""

    @property
    def logical_block_bytes(self) -> int:
        """The smallest unit that can be written: 512 or a higher power of two."""

    @property
    def discards(self) -> bool:
        """Whether discard has an effect; turns false when the device reports that it does not support it."""

    @property
    def errors(self) -> int:
        """How many operations have failed since the opening."""

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset."""

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Write all of data at offset; with durable, return only once it would survive a power cut."""

    async def flush(self) -> None:
        """Make every write and discard that has returned before this call durable."""

    async def discard(self, offset: int, length: int) -> None:
        """Discard the extent; what is read there afterwards is undefined."""

    async def close(self) -> None:
        """Wait for operations in flight and release the device; a second close does nothing."""


def check_extent(device: BlockDevice, verb: str, offset: int, length: int) -> None:
    """Raises DeviceError unless the extent is within the device; asserts that it consists of sectors."""
    assert offset >= 0
    assert length > 0
    assert offset % SECTOR_BYTES == 0
    assert length % SECTOR_BYTES == 0
    if offset + length > device.size_bytes:
        raise DeviceError(
            device.path, f"cannot {verb} {length} bytes at {offset}: the device ends at {device.size_bytes}"
        )
