# SPDX-License-Identifier: GPL-2.0-only
"""What volumes must hold: every sector's bytes, or what it may hold where a write was cut off."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .images import SECTOR

NOTHING = bytes(SECTOR)


def token(inode: int, sector: int, number: int) -> bytes:
    """A sector that tells where it belongs, and which write made it."""
    return f"inode {inode} sector {sector} write {number}\n".encode().ljust(SECTOR, b"~")


@dataclass
class Model:
    """One volume: below is what a reader gets where the cache holds nothing."""

    inode: int
    below: bytes
    first: int = 0  # sectors in front of this one are nobody's
    churned: int = 0  # so many at the end are for those who are cut off
    written: dict[int, bytes] = field(default_factory=dict)  # by sector
    dirty: set[int] = field(default_factory=set)  # sectors that may not fall back to what is below
    open: dict[int, list[bytes]] = field(default_factory=dict)  # what a sector may hold, if that is not known

    @property
    def sectors(self) -> int:
        """How large the volume is."""
        return len(self.below) // SECTOR

    def write(self, offset: int, sectors: int, number: int, *, dirty: bool) -> bytes:
        """The bytes of a write, from now on in the volume."""
        data = [token(self.inode, sector, number) for sector in range(offset, offset + sectors)]
        self.put(offset, b"".join(data), dirty=dirty)
        return b"".join(data)

    def put(self, offset: int, data: bytes, *, dirty: bool) -> None:
        """These bytes are in the volume now."""
        for step in range(len(data) // SECTOR):
            self.written[offset + step] = data[step * SECTOR : (step + 1) * SECTOR]
            (self.dirty.add if dirty else self.dirty.discard)(offset + step)
            self.open.pop(offset + step, None)

    def drop(self, offset: int, sectors: int) -> None:
        """Nothing of this range is in the cache any more."""
        for sector in range(offset, offset + sectors):
            self.written.pop(sector, None)
            self.dirty.discard(sector)

    def wrong(self, found: bytes) -> list[str]:
        """What a reader of the whole volume got and should not have, in words."""
        if len(found) != len(self.below):
            return [f"volume {self.inode}: {len(found)} bytes, expected {len(self.below)}"]
        places = [
            sector
            for sector in range(self.sectors)
            if found[sector * SECTOR : (sector + 1) * SECTOR] not in self.allowed(sector)
        ]
        if not places:
            return []
        first = places[0]
        got = found[first * SECTOR : (first + 1) * SECTOR].rstrip(b"~\n\0")
        wanted = " or ".join(repr(data.rstrip(b"~\n\0")) for data in self.allowed(first))
        told = f"first is sector {first}: {got!r}, expected {wanted}"
        return [f"volume {self.inode}: {len(places)} of {self.sectors} sectors are wrong; {told}"]

    def allowed(self, sector: int) -> Iterable[bytes]:
        """What a sector may hold."""
        if sector in self.open:
            return self.open[sector]
        below = self.below[sector * SECTOR : (sector + 1) * SECTOR]
        data = self.written.get(sector, below)
        return (data,) if sector in self.dirty or data == below else (data, below)

    def served(self, found: bytes) -> int:
        """How many clean sectors a reader got out of the cache, of those that differ from what is below."""
        return sum(
            found[sector * SECTOR : (sector + 1) * SECTOR] == data
            for sector, data in self.written.items()
            if sector not in self.dirty
        )

    def settle(self, found: bytes) -> None:
        """What was not known is as a reader found it."""
        for sector in self.open:
            data = found[sector * SECTOR : (sector + 1) * SECTOR]
            if data != NOTHING:
                self.written[sector] = data
                self.dirty.add(sector)
        self.open.clear()
