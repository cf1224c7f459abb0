# SPDX-License-Identifier: GPL-2.0-only
"""Every state in which a power cut may leave devices, drawn by the hundred without copying an image.

DurabilityLog answers what a sector may hold at any position; a walk goes through the log once, in order, and
keeps the answer up to date. A state is the bytes that are certain and an overlay of drawn sectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from random import Random

from bcached.device.block_device import BytesLike
from bcached.units import SECTOR_BYTES
from instruments.devices.durability_log import DurabilityLog, Entry

Content = bytes | None  # None: anything at all
EXHAUSTIVE_SECTORS = 4  # below that all combinations are drawn
GARBAGE_SECTORS_MAX = 3


@dataclass
class Clock:
    """One count of moments for the logs of several devices, whose power fails at once."""

    logs: list["ClockedLog"] = field(default_factory=list)
    positions: list[tuple[int, ...]] = field(default_factory=lambda: [()])

    @property
    def now(self) -> int:
        """How much has happened: issues and completions on all devices."""
        return len(self.positions) - 1

    def tick(self) -> None:
        self.positions.append(tuple(log.position for log in self.logs))


class ClockedLog(DurabilityLog):
    """A log that tells a clock of every issue and completion."""

    def __init__(self, base: bytes, clock: Clock) -> None:
        super().__init__(base)
        self.clock = clock
        clock.logs.append(self)

    def _next(self) -> int:
        number = super()._next()
        self.clock.tick()
        return number


class Walk:
    """What one device may hold, from position to position."""

    def __init__(self, log: DurabilityLog) -> None:
        self.certain = bytearray(log.base)
        self.uncertain: dict[int, tuple[Content, ...]] = {}  # oldest first, two or more
        self.undefined: set[int] = set()  # discarded, durably
        self.print = 0  # of the certain bytes, as changed since the beginning
        self.version = 0  # another one whenever certain or undefined may have changed
        self._print_without = (-1, 0)
        self._pending: dict[int, list[Entry]] = {}
        self._may_be_as_before: dict[int, bool] = {}
        self._written: list[Entry] = []  # ended, and not durable yet
        self._events = sorted(
            [(entry.issued, entry) for entry in log.entries]
            + [(entry.ended, entry) for entry in log.entries if entry.ended is not None],
            key=lambda event: event[0],
        )
        self._next = 0

    def advance(self, position: int) -> None:
        """Go on to the state just before this position."""
        self.version += 1
        while self._next < len(self._events) and self._events[self._next][0] < position:
            at, entry = self._events[self._next]
            self._next += 1
            if at != entry.issued:
                self._end(entry)
            elif entry.kind != "flush":
                self._issue(entry)

    def would_change(self, position: int) -> bool:
        """Whether going on to this position may change the answer: not if mere writes end on the way."""
        for at, entry in self._events[self._next :]:
            if at >= position:
                break
            begins = at == entry.issued
            if entry.kind == "flush" and not begins and self._written:
                return True
            if entry.kind != "flush" and (begins or entry.durable):
                return True
        return False

    def print_without_uncertain(self) -> int:
        """The print of all sectors of which it is known what they hold."""
        if self._print_without[0] != self.version:
            found = self.print
            for sector in self.uncertain:
                found ^= hash((sector, bytes(self.certain[sector : sector + SECTOR_BYTES])))
            self._print_without = (self.version, found)
        return self._print_without[1]

    def landed(self) -> list[Entry]:
        """The changes that are there or not."""
        found = {id(entry): entry for entries in self._pending.values() for entry in entries}
        return sorted(found.values(), key=lambda entry: entry.issued)

    def _issue(self, entry: Entry) -> None:
        for sector in entry.sectors():
            self._pending.setdefault(sector, []).append(entry)
            self._may_be_as_before.setdefault(sector, True)
            self._weigh(sector)

    def _end(self, entry: Entry) -> None:
        if entry.failed:
            return
        if entry.kind == "flush":
            durable = [written for written in self._written if (written.ended or 0) < entry.issued]
            self._written = [written for written in self._written if (written.ended or 0) >= entry.issued]
        elif entry.durable:
            durable = [entry]
        else:
            self._written.append(entry)
            return
        for written in durable:
            self._settle(written)

    def _settle(self, durable: Entry) -> None:
        """A durable change hides what had ended before it was issued."""
        for sector in durable.sectors():
            pending = self._pending.get(sector)
            if pending is None:
                continue
            if any(entry is durable for entry in pending):
                self._may_be_as_before[sector] = False
            # Else it left what was there anyway, and that is what has become durable.
            pending[:] = [entry for entry in pending if entry.ended is None or entry.ended > durable.issued]
            self._weigh(sector)

    def _weigh(self, sector: int) -> None:
        before: list[Content] = (
            [bytes(self.certain[sector : sector + SECTOR_BYTES])] if self._may_be_as_before[sector] else []
        )
        if before and sector in self.undefined:
            before = [None]
        choices = tuple(dict.fromkeys(before + [entry.content(sector) for entry in self._pending[sector]]))
        if len(choices) > 1:
            self.uncertain[sector] = choices
            return
        self.uncertain.pop(sector, None)
        content = choices[0]
        if content is None:
            self.undefined.add(sector)
        else:
            self.undefined.discard(sector)
            self.print ^= hash((sector, bytes(self.certain[sector : sector + SECTOR_BYTES])))
            self.print ^= hash((sector, content))
            self.certain[sector : sector + SECTOR_BYTES] = content
        if not self._may_be_as_before[sector] and len(self._pending[sector]) == 1:
            del self._pending[sector], self._may_be_as_before[sector]


@dataclass(slots=True)
class State:
    """One state of one device."""

    certain: bytearray  # the walk's own: only good until it goes on
    drawn: dict[int, bytes]
    undefined: set[int]
    fill: bytes | None  # of undefined sectors; None: as they were
    walk: Walk | None = None

    def image(self) -> bytearray:
        """All bytes of it, to keep."""
        image = bytearray(self.certain)
        if self.fill is not None:
            for sector in self.undefined:
                image[sector : sector + SECTOR_BYTES] = self.fill
        for sector, content in self.drawn.items():
            image[sector : sector + SECTOR_BYTES] = content
        return image


def draw_states(walks: list[Walk], random: Random, count: int) -> Iterator[list[State]]:
    """Up to `count` different states of all devices, the telling ones first."""
    sectors = [(index, sector) for index, walk in enumerate(walks) for sector in walk.uncertain]
    choices = [walks[index].uncertain[sector] for index, sector in sectors]
    fills = (bytes(SECTOR_BYTES), random.randbytes(SECTOR_BYTES), None)
    seen = set()
    for number, picked in enumerate(_pick(walks, sectors, choices, random, count)):
        if number >= count:
            return
        if picked in seen:
            continue
        seen.add(picked)
        fill = fills[number % 3]
        states = [State(walk.certain, {}, walk.undefined, fill, walk) for walk in walks]
        for (index, sector), content in zip(sectors, picked, strict=True):
            states[index].drawn[sector] = random.randbytes(SECTOR_BYTES) if content is None else content
        yield states


def _pick(
    walks: list[Walk],
    sectors: list[tuple[int, int]],
    choices: list[tuple[Content, ...]],
    random: Random,
    count: int,
) -> Iterator[tuple[Content, ...]]:
    """Contents for all uncertain sectors, again and again."""
    if not sectors:
        yield ()
        return
    oldest, newest = tuple(each[0] for each in choices), tuple(each[-1] for each in choices)
    yield oldest
    yield newest
    if len(sectors) <= EXHAUSTIVE_SECTORS:
        yield from product(*choices)
    for index, walk in enumerate(walks):
        for entry in walk.landed():
            covered = set(entry.sectors())
            hit = [i == index and sector in covered for i, sector in sectors]
            contents = [entry.content(sector) for _, sector in sectors]
            yield tuple(c if h else o for c, h, o in zip(contents, hit, oldest, strict=True))
            yield tuple(o if h else n for o, h, n in zip(oldest, hit, newest, strict=True))
    for turn in range(count):
        kind = turn % 4
        if kind == 0:  # one sector landed, or one was lost
            one = random.randrange(len(sectors))
            common, other = (oldest, newest) if turn % 8 else (newest, oldest)
            yield common[:one] + other[one : one + 1] + common[one + 1 :]
        elif kind == 3:  # some were being written when the power went
            garbage = set(random.sample(range(len(sectors)), min(len(sectors), GARBAGE_SECTORS_MAX)))
            rest = [random.choice(each) for each in choices]
            yield tuple(None if at in garbage else content for at, content in enumerate(rest))
        else:
            likely = random.choice((0.1, 0.5, 0.9))
            yield tuple(each[-1] if random.random() < likely else random.choice(each) for each in choices)


class StateDevice:
    """A device in a drawn state. It never lets the loop turn, so opening needs no loop at all."""

    discards = True

    def __init__(self, state: State, logical_block_bytes: int = SECTOR_BYTES) -> None:
        self.path = self.data_path = "state"
        self.size_bytes = len(state.certain)
        self.logical_block_bytes = logical_block_bytes
        self.errors = self.writes = 0
        self._state = state

    async def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size_bytes
        state = self._state
        found = bytearray(state.certain[offset : offset + length])
        sectors = range(offset, offset + length, SECTOR_BYTES)
        if state.fill is not None:
            for sector in state.undefined.intersection(sectors):
                found[sector - offset : sector - offset + SECTOR_BYTES] = state.fill
        for sector in sectors if len(sectors) < len(state.drawn) else state.drawn.keys() & set(sectors):
            content = state.drawn.get(sector)
            if content is not None:
                found[sector - offset : sector - offset + SECTOR_BYTES] = content
        return bytes(found)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        self.writes += 1
        source = bytes(data)
        for begin in range(0, len(source), SECTOR_BYTES):
            self._state.drawn[offset + begin] = source[begin : begin + SECTOR_BYTES]

    async def flush(self) -> None:
        pass

    async def discard(self, offset: int, length: int) -> None:
        self.writes += 1

    async def close(self) -> None:
        pass
