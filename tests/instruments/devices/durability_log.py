# SPDX-License-Identifier: GPL-2.0-only
"""What a device was asked to change, in order, and what of it would survive a power cut.

The rule is the drive's and not what the code under test believes: a flush makes durable what was complete
when the flush was issued, no more; a durable write is so by itself. Whatever else was issued may be there
or not, sector by sector.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Literal

from bcached.units import SECTOR_BYTES

Kind = Literal["write", "flush", "discard"]


@dataclass(slots=True)
class Entry:
    """One change of the device. Issues and completions share one count of positions."""

    kind: Kind
    issued: int
    offset: int = 0
    length: int = 0
    data: bytes | None = None  # of a write
    durable: bool = False  # a write that is durable once it is complete
    ended: int | None = None  # None: still in flight
    failed: bool = False  # it ended, and may be there or not

    def __str__(self) -> str:
        name = f"durable {self.kind}" if self.durable else self.kind
        place = "" if self.kind == "flush" else f" of {self.length} at {self.offset}"
        digest = "" if self.data is None else f" {sha256(self.data).hexdigest()[:12]}"
        end = (
            "in flight" if self.ended is None else f"{self.ended} failed" if self.failed else str(self.ended)
        )
        return f"{self.issued}..{end}: {name}{place}{digest}"

    def sectors(self) -> range:
        """The places of the sectors it changes, in bytes."""
        return range(self.offset, self.offset + self.length, SECTOR_BYTES)

    def content(self, sector: int) -> bytes | None:
        """What it leaves in a sector; None, which is anything at all, if it discards."""
        begin = sector - self.offset
        return None if self.data is None else self.data[begin : begin + SECTOR_BYTES]


@dataclass(slots=True)
class DurabilityLog:
    """All changes since the recording began, and the bytes that were there, durably, before.

    Every question takes a position and is answered as of a power cut just before it; without one, as of now.
    """

    base: bytes
    entries: list[Entry] = field(default_factory=list)
    position: int = 0  # of the next issue or completion
    flushes: list[tuple[int, int]] = field(default_factory=list)  # (completed, latest issue until then)

    def issue(self, kind: Kind, offset: int = 0, length: int = 0) -> Entry:
        """Write down that a change begins."""
        entry = Entry(kind, self._next(), offset, length)
        self.entries.append(entry)
        return entry

    def issue_write(self, offset: int, data: bytes, durable: bool) -> Entry:
        """Write down that a write begins."""
        entry = self.issue("write", offset, len(data))
        entry.data, entry.durable = data, durable
        return entry

    def complete(self, entry: Entry) -> None:
        """Write down that a change has succeeded."""
        entry.ended = self._next()
        if entry.kind == "flush":
            latest = max(entry.issued, self.flushes[-1][1] if self.flushes else -1)
            self.flushes.append((entry.ended, latest))

    def fail(self, entry: Entry) -> None:
        """Write down that a change has failed or was cancelled: it may be there or not."""
        entry.ended, entry.failed = self._next(), True

    def is_durable(self, entry: Entry, position: int | None = None) -> bool:
        """Whether the change is on the device for certain."""
        position = self._now(position)
        if entry.failed or entry.ended is None or entry.ended >= position:
            return False
        return entry.durable or entry.ended < self._covered_until(position)

    def durable_bytes(self, offset: int, length: int, position: int | None = None) -> bytes | None:
        """What the extent holds for certain; None if some sector of it may be one thing or another."""
        sectors = self.possible_bytes(offset, length, position)
        contents = [next(iter(choices)) for choices in sectors if len(choices) == 1]
        certain = [content for content in contents if content is not None]
        return b"".join(certain) if len(certain) == len(sectors) else None

    def possible_bytes(
        self, offset: int, length: int, position: int | None = None
    ) -> list[set[bytes | None]]:
        """For each sector of the extent all that it may hold; None stands for anything at all."""
        assert offset % SECTOR_BYTES == 0
        assert length % SECTOR_BYTES == 0
        position = self._now(position)
        extent = range(offset, offset + length, SECTOR_BYTES)
        changes = self._changes(position, extent)
        return [self._choices(sector, changes[sector], position) for sector in extent]

    def image_after_cut(self, random: Random, position: int | None = None) -> bytes:
        """One image that a power cut may leave, each uncertain sector chosen by chance."""
        position = self._now(position)
        image = bytearray(self.base)
        for sector, entries in self._changes(position).items():
            choices = sorted(content or b"" for content in self._choices(sector, entries, position))
            image[sector : sector + SECTOR_BYTES] = random.choice(choices) or random.randbytes(SECTOR_BYTES)
        return bytes(image)

    def _changes(self, position: int, extent: range | None = None) -> dict[int, list[Entry]]:
        """What was issued before the position, by sector, in order of issue."""
        changes: dict[int, list[Entry]] = defaultdict(list)
        for entry in self.entries[: bisect_left(self.entries, position, key=lambda entry: entry.issued)]:
            for sector in _within(entry.sectors(), extent):
                changes[sector].append(entry)
        return changes

    def _choices(self, sector: int, changes: Iterable[Entry], position: int) -> set[bytes | None]:
        """All that the sector may hold: a durable change hides what had ended before it was issued."""
        settled = [entry for entry in changes if self.is_durable(entry, position)]
        hidden_before = max((entry.issued for entry in settled), default=-1)
        choices = {
            entry.content(sector) for entry in changes if entry.ended is None or entry.ended > hidden_before
        }
        if not settled:
            choices.add(self.base[sector : sector + SECTOR_BYTES])
        return choices

    def _covered_until(self, position: int) -> int:
        """When the latest flush that is complete was issued: what had ended by then is durable."""
        count = bisect_left(self.flushes, position, key=lambda flush: flush[0])
        return self.flushes[count - 1][1] if count else -1

    def _now(self, position: int | None) -> int:
        return self.position if position is None else position

    def _next(self) -> int:
        self.position += 1
        return self.position - 1


def _within(sectors: range, extent: range | None) -> range:
    if extent is None:
        return sectors
    return range(max(sectors.start, extent.start), min(sectors.stop, extent.stop), SECTOR_BYTES)
