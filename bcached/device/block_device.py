"""What every device can do: a handful of verbs, and a frozen record of how often they were used."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bcached.errors import DeviceError
from bcached.units import SECTOR_BYTES

BytesLike: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """How much a device has done since it was opened; only what succeeded counts, errors apart."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    discards: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    discarded_bytes: int = 0
    errors: int = 0


class BlockDevice(Protocol):
    """A device of fixed size, addressed in bytes by multiples of a sector.

    Operations may overlap, and those that do have no order among themselves. All raise DeviceError;
    once a flush or a durable write has failed, every write, flush and discard raises FlushFailed.
    A cancelled operation ends only when nothing of it is in flight any more.
    """

    @property
    def path(self) -> str:
        """What the device is called in messages."""

    @property
    def data_path(self) -> str:
        """Where a client opens the same device: behind links, which may lead elsewhere by then."""

    @property
    def size_bytes(self) -> int:
        """The size when it was opened: a device does not grow, and one that shrinks gives errors."""

    @property
    def logical_block_bytes(self) -> int:
        """The smallest unit that can be written: 512 or a higher power of two."""

    @property
    def discards(self) -> bool:
        """Whether discard does anything; false also from the moment the device says it cannot."""

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes at offset."""

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Write all of data at offset; with durable, return only when it would survive a power cut."""

    async def flush(self) -> None:
        """Make every write and discard that has returned before this call durable."""

    async def discard(self, offset: int, length: int) -> None:
        """Tell the device that these bytes are not needed; what is read there afterwards is undefined."""

    async def close(self) -> None:
        """Wait for what is in flight and let go of the device; a second close does nothing."""

    def statistics(self) -> DeviceStatistics:
        """What has been done so far."""


def check_extent(device: BlockDevice, verb: str, offset: int, length: int) -> None:
    """Raise unless the extent lies on the device; one that is not made of sectors is our own bug."""
    assert offset >= 0
    assert length > 0
    assert offset % SECTOR_BYTES == 0
    assert length % SECTOR_BYTES == 0
    if offset + length > device.size_bytes:
        raise DeviceError(
            device.path, f"cannot {verb} {length} bytes at {offset}: the device ends at {device.size_bytes}"
        )
