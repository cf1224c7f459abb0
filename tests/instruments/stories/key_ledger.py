# SPDX-License-Identifier: GPL-2.0-only
"""What clients know of their keys: every sector's versions, and from when on which of them were promised.

A version counts from some journal entry on. What a power cut leaves has a newest entry, and that says which
version of each sector must be there: all through that entry, nothing of later ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from bcached.keys import Key
from bcached.units import SECTOR_BYTES

Place = tuple[int, int]  # inode, sector
Value = tuple[bool, int] | None  # dirty, and which write it was; None: nothing is there


@lru_cache(1 << 16)
def content_of(token: int, inode: int, sector: int) -> bytes:
    """What a write leaves in a sector: it tells which write it was, and where it belongs."""
    return (b"%d %d %d\n" % (token, inode, sector)).ljust(SECTOR_BYTES, b".")


def data_of(token: int, key: Key) -> bytes:
    return b"".join(content_of(token, key.inode, sector) for sector in range(key.offset, key.end))


def token_of(content: bytes) -> int:
    return int(content.split(b" ", 1)[0])


@dataclass(frozen=True, slots=True)
class Version:
    """A value that is there from an entry on: from `low` on perhaps, from `high` on for certain."""

    low: int
    high: float
    value: Value


@dataclass
class KeyLedger:
    """All versions of all sectors, in the order in which they were accepted."""

    versions: dict[Place, list[Version]] = field(default_factory=dict)
    promised: list[tuple[int, int]] = field(default_factory=list)  # moment, and the entry durable by then
    # When the bucket of a clean write's sector was given up.
    reclaimed: dict[tuple[Place, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[Place, Value], seq: int) -> "KeyLedger":
        """A ledger that begins with what is there."""
        return cls({place: [Version(0, 0, value)] for place, value in values.items()}, [(-1, seq)])

    def copy(self) -> "KeyLedger":
        """Another one that begins like this."""
        versions = {place: list(known) for place, known in self.versions.items()}
        return KeyLedger(versions, list(self.promised), dict(self.reclaimed))

    def now(self, place: Place) -> Value:
        versions = self.versions.get(place)
        return versions[-1].value if versions else None

    def there(self) -> Iterable[tuple[Place, Value]]:
        """What is there now, by the client's knowledge."""
        for place, versions in self.versions.items():
            if versions[-1].value is not None:
                yield place, versions[-1].value

    def put(self, places: Iterable[Place], value: Value, low: int, high: float) -> None:
        for place in places:
            self.versions.setdefault(place, []).append(Version(min(low, high), high, value))  # type: ignore[arg-type]

    def promise(self, moment: int, seq: int) -> None:
        self.promised.append((moment, seq))

    def promised_at(self, moment: int) -> int:
        """The newest entry that must be there after a cut at this moment."""
        return max((seq for kept, seq in self.promised if kept <= moment), default=0)

    def allowed(self, place: Place, seq: int) -> list[Value]:
        """What may be at a place when this entry is the newest."""
        found: list[Value] = []
        for version in reversed(self.versions.get(place, ())):
            if version.low <= seq:
                found.append(version.value)
                if version.high <= seq:
                    return found
        return [*found, None]

    def reclaim(self, place: Place, moment: int) -> None:
        """The bucket of clean data is used for something else from now on."""
        value = self.now(place)
        if value is not None:
            self.reclaimed.setdefault((place, value[1]), moment)

    def reclaimed_at(self, place: Place, token: int) -> float:
        """From when on a write may be gone."""
        return self.reclaimed.get((place, token), inf)
