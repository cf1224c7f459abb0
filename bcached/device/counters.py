"""The integers a device counts in, from which its statistics are taken."""

from dataclasses import asdict, dataclass

from bcached.device.block_device import DeviceStatistics


@dataclass(slots=True)
class Counters:
    """What a device has done; touched from the event loop only."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    discards: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    discarded_bytes: int = 0
    errors: int = 0

    def count_read(self, length: int) -> None:
        """A read of length bytes succeeded."""
        self.reads += 1
        self.read_bytes += length

    def count_write(self, length: int) -> None:
        """A write of length bytes succeeded."""
        self.writes += 1
        self.written_bytes += length

    def count_discard(self, length: int) -> None:
        """A discard of length bytes succeeded."""
        self.discards += 1
        self.discarded_bytes += length

    def snapshot(self) -> DeviceStatistics:
        """The counts as they are now."""
        return DeviceStatistics(**asdict(self))
