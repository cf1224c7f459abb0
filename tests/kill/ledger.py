# SPDX-License-Identifier: GPL-2.0-only
"""What clients were told, and so what may be found in the set after any end of the daemon.

Of each sector of a volume it keeps the changes that were asked for, in their order. Of those, what was
acknowledged as durable is the least that must be found; what came later may be found, as far as the journal
got. The journal is one sequence: whoever finds a change finds all that was acknowledged before it was asked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from bcached.units import SECTOR_BYTES

Place = tuple[int, int]  # inode, sector
NOTHING = 0


class LostError(AssertionError):
    """A promise was broken."""


class Sighting(NamedTuple):
    """What was found of a sector: which change wrote it, by its own word, and whether it is dirty."""

    token: int
    dirty: bool


@dataclass(slots=True, eq=False)
class Change:
    """Sectors of a volume that shall hold what the token says (or nothing); begun and acked by one clock."""

    inode: int
    start: int
    end: int
    token: int
    dirty: bool
    begun: int
    acked: int | None = None
    durable_at: int | None = None  # position in the device's log when it was known to be durable


BEFORE = Change(0, 0, 0, NOTHING, False, 0, 0, 0)  # the first of all changes of any sector


@dataclass
class Volume:
    """A volume that was asked for."""

    label: str
    inode: int | None = None  # known when it is acknowledged
    created_at: int | None = None
    deleting: bool = False
    deleted_at: int | None = None


@dataclass
class Ledger:
    """All that was asked and answered. With keep_all, also what later changes made irrelevant."""

    keep_all: bool = False
    changes: dict[Place, list[Change]] = field(default_factory=dict)
    by_token: dict[int, Change] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._clock = count(1)
        self._tokens = count(1)
        self._acked: list[Change] = []  # not known to be durable

    def new_token(self) -> int:
        return next(self._tokens)

    def now(self) -> int:
        return next(self._clock)

    def count(self, what: str, number: int = 1) -> None:
        self.figures[what] = self.figures.get(what, 0) + number

    # Changes

    def begin(self, inode: int, start: int, end: int, token: int, dirty: bool = False) -> Change:
        """A change was asked for: from now on it may be found."""
        change = Change(inode, start, end, token, dirty, self.now())
        if token != NOTHING:
            self.by_token.setdefault(token, change)
        for sector in range(start, end):
            self.changes.setdefault((inode, sector), [BEFORE]).append(change)
        return change

    def withdraw(self, change: Change) -> None:
        """It was refused: it must not be found."""
        for sector in range(change.start, change.end):
            self.changes[change.inode, sector].remove(change)
        if self.by_token.get(change.token) is change:
            del self.by_token[change.token]

    def accept(self, change: Change) -> None:
        """It was acknowledged, but not as durable."""
        change.acked = self.now()
        self._acked.append(change)

    def durable(self, since: int, position: int, *changes: Change) -> None:
        """All that was acknowledged before that time is durable, and so are these changes."""
        for change in changes:
            self.accept(change)
        waiting, self._acked = self._acked, []
        for one in waiting:
            assert one.acked is not None
            if one in changes or one.acked < since:
                one.durable_at = position
                self._forget_before(one)
            else:
                self._acked.append(one)

    def _forget_before(self, change: Change) -> None:
        if not self.keep_all:
            for sector in range(change.start, change.end):
                changes = self.changes[change.inode, sector]
                if change in changes:
                    del changes[: changes.index(change)]

    def judge_now(self, place: Place, sighting: Sighting | None) -> None:
        """What the serving daemon says of a sector that nobody is changing."""
        allowed = []
        for change in reversed(self.changes.get(place, [BEFORE])):
            allowed.append(change)
            if change.acked is not None:
                break
        self._judge_one(place, sighting, allowed)

    # After the end of a life

    def judge(
        self, found: Mapping[Place, Sighting], inodes: Iterable[int], position: int | None = None
    ) -> None:
        """What was found in these volumes is what may be found, of a cut at that position."""
        must = self._must_be_there(found)
        last = max((change.begun for change in must), default=0)
        known = set(inodes)
        for place, changes in self.changes.items():
            if place[0] not in known:
                continue
            allowed = []
            for change in reversed(changes):
                allowed.append(change)
                is_durable = change.durable_at is not None and (
                    position is None or change.durable_at <= position
                )
                if is_durable or change in must or (change.acked is not None and change.acked < last):
                    break
            self._judge_one(place, found.get(place), allowed)
        if strange := found.keys() - self.changes.keys():
            raise LostError(f"found what was never written: {sorted(strange)[:5]}")

    def _must_be_there(self, found: Mapping[Place, Sighting]) -> set[Change]:
        """The changes that were found, in whatever sector: they are whole."""
        must = set()
        for place, sighting in found.items():
            change = self.by_token.get(sighting.token)
            if change is None:
                raise LostError(f"{place}: found what was never committed: {sighting}")
            must.add(change)
        return must

    @staticmethod
    def _judge_one(place: Place, sighting: Sighting | None, allowed: list[Change]) -> None:
        if sighting is None:
            if all(change.dirty for change in allowed):
                raise LostError(f"{place} is lost: expected one of {allowed}")
        elif not any((change.token, change.dirty) == sighting for change in allowed):
            raise LostError(f"{place}: found {sighting}, expected one of {allowed}")

    def settle(self, found: Mapping[Place, Sighting]) -> None:
        """What was found is what there is from now on; what clean sectors hold may still vanish."""
        self._acked.clear()
        for place, changes in self.changes.items():
            sighting = found.get(place)
            if sighting is None:  # of clean data that was evicted the key may come back, whole
                clean = [one for one in changes if one.token != NOTHING and not one.dirty]
                kept = [BEFORE, *(replace(one, acked=None, durable_at=None) for one in clean)]
            else:
                kept = [one for one in changes if (one.token, one.dirty) == sighting][-1:]
                kept[0].acked = kept[0].durable_at = 0
            self.changes[place] = kept
        live = {change.token for changes in self.changes.values() for change in changes}
        self.by_token = {token: change for token, change in self.by_token.items() if token in live}

    # Volumes

    def judge_volumes(self, listed: Mapping[str, int], position: int | None = None) -> None:
        """What is listed (label to inode) is what may be."""

        def is_past(moment: int | None) -> bool:
            return moment is not None and (position is None or moment <= position)

        for label, volume in self.volumes.items():
            if is_past(volume.deleted_at):
                if label in listed:
                    raise LostError(f"volume {label} is back")
            elif is_past(volume.created_at) and not volume.deleting and label not in listed:
                raise LostError(f"volume {label} is lost")
            if label in listed and volume.inode not in (None, listed[label]):
                raise LostError(f"volume {label} is {listed[label]}, expected {volume.inode}")
        if strange := listed.keys() - self.volumes.keys():
            raise LostError(f"volumes that nobody made: {strange}")

    def settle_volumes(self, listed: Mapping[str, int]) -> None:
        """These are there from now on, and no other."""
        for label, inode in listed.items():
            volume = self.volumes[label]
            volume.inode, volume.created_at, volume.deleting = inode, 0, False
        for label in self.volumes.keys() - listed.keys():
            del self.volumes[label]
        known = set(listed.values())
        self.changes = {place: kept for place, kept in self.changes.items() if place[0] in known}

    def forget_volume(self, inode: int) -> None:
        """A volume is gone, and nothing may be found there."""
        for place in [place for place in self.changes if place[0] == inode]:
            del self.changes[place]


def data_of(token: int, inode: int, start: int, end: int) -> bytes:
    """What is written: each sector says with which change, and where it belongs."""
    sectors = (b"%d %d %d\n" % (token, inode, sector) for sector in range(start, end))
    return b"".join(sector.ljust(SECTOR_BYTES, b".") for sector in sectors)


def token_of(data: bytes, inode: int, sector: int) -> int:
    """Which change wrote this sector; LostError if it is not what belongs there."""
    head = data[:64].split(b"\n")[0].split(b" ")[0]
    if head.isdigit() and data == data_of(int(head), inode, sector, sector + 1):
        return int(head)
    raise LostError(f"{inode}:{sector} has foreign data: {data[:40]!r}")
