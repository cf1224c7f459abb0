# SPDX-License-Identifier: GPL-2.0-only
"""In place of a device that is not there: nothing of it can be read."""

from bcached.device.block_device import BytesLike
from bcached.errors import DeviceError


class MissingDevice:
    """A device of which only a size is supposed. Every operation on it fails."""

    def __init__(self, path: str, size_bytes: int) -> None:
        self.path = self.data_path = path
        self.size_bytes = size_bytes
        self.logical_block_bytes = 512
        self.discards = False
        self.errors = 0  # a failure is no news

    async def read(self, offset: int, length: int) -> bytes:
        """Raises DeviceError."""
        raise self._missing()

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Raises DeviceError."""
        raise self._missing()

    async def flush(self) -> None:
        """Nothing was written."""

    async def discard(self, offset: int, length: int) -> None:
        """Raises DeviceError."""
        raise self._missing()

    async def close(self) -> None:
        """Nothing is open."""

    def _missing(self) -> DeviceError:
        return DeviceError(self.path, "the device is missing")
