"""The counters of a device, from which its statistics are taken."""

from dataclasses import asdict, dataclass

from bcached.device.block_device import DeviceStatistics


@dataclass(slots=True)
class Counters:
    """Counts of a device's operations; updated on the event loop only."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    discards: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    discarded_bytes: int = 0
    errors: int = 0

    def count_read(self, length: int) -> None:
        """Count a successful read."""
        self.reads += 1
        self.read_bytes += length

    def count_write(self, length: int) -> None:
        """Count a successful write."""
        self.writes += 1
        self.written_bytes += length

    def count_discard(self, length: int) -> None:
        """Count a successful discard."""
        self.discards += 1
        self.discarded_bytes += length

    def snapshot(self) -> DeviceStatistics:
        """Returns the current counts."""
        return DeviceStatistics(**asdict(self))
