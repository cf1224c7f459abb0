# SPDX-License-Identifier: GPL-2.0-only
"""The counts that every device keeps of its operations."""

from dataclasses import dataclass, replace


@dataclass(slots=True)
class DeviceStatistics:
    """Counts since the device was opened; updated on the event loop only."""

    # Operations that succeeded
    reads: int = 0
    writes: int = 0
    flushes: int = 0
    discards: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    discarded_bytes: int = 0
    # Those that failed, of whatever kind
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

    def copy(self) -> "DeviceStatistics":
        """Returns the counts as they are now."""
        return replace(self)
