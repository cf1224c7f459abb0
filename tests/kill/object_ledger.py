# SPDX-License-Identifier: GPL-2.0-only
"""What a cache was told to keep, by name, and what may be found of it after a kill or a power cut."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from bcached.client import Cache

from .ledger import LostError

NAMES = 40
LENGTHS = (200, 3000, 9000, 70_000)
HEAD = struct.Struct("<Q8s")
EVERYTHING = 1 << 62  # a position behind all: a kill loses nothing that was durable


@dataclass
class Stored:
    """One value of a name, or its deletion (token 0); positions are of the device's log."""

    token: int
    began: int
    durable: int = EVERYTHING + 1  # where it was durable at the latest


class ObjectLedger:
    """The values of each name, in order."""

    def __init__(self, position: Callable[[], int] = lambda: 0) -> None:
        self.position = position
        self.values: dict[str, list[Stored]] = {f"name {number}": [] for number in range(NAMES)}
        self.figures: dict[str, int] = {}
        self._token = 0

    def count(self, what: str) -> None:
        """One more of that."""
        self.figures[what] = self.figures.get(what, 0) + 1

    def begin(self, name: str, *, deletion: bool = False) -> Stored:
        """A value is about to be stored."""
        self._token += 1
        one = Stored(0 if deletion else self._token, self.position())
        self.values[name].append(one)
        return one

    def all_durable(self) -> None:
        """All that was stored until now is durable."""
        position = self.position()
        for one in self._all():
            one.durable = min(one.durable, position)

    def _all(self) -> Iterator[Stored]:
        for values in self.values.values():
            yield from values

    def judge(self, cache: Cache, cut: int = EVERYTHING) -> int:
        """Returns how many values were found; LostError if one that was durable before the cut was not."""
        found = 0
        for name, values in self.values.items():
            token = token_of(name, cache.get(name))
            allowed = self._allowed(values, cut)
            if token not in allowed:
                raise LostError(f"{name}: found {token}, expected one of {sorted(allowed)}")
            found += token > 0
        return found

    def _allowed(self, values: list[Stored], cut: int) -> set[int]:
        """The tokens that may be found: of the newest durable value or a later one; 0 for none."""
        durable = [index for index, one in enumerate(values) if one.durable <= cut]
        if not durable:
            return {0, *(one.token for one in values if one.began <= cut)}
        return {one.token for one in values[durable[-1] :] if one.began <= cut}

    def settle(self, cache: Cache) -> None:
        """What was found after a kill is all there is of each name; it is made durable."""
        for name, values in self.values.items():
            token = token_of(name, cache.get(name))
            values[:] = [one for one in values if one.token == token][-1:]
        cache.flush()
        self.all_durable()


def value_of(name: str, token: int, length: int) -> bytes:
    """A value that tells its name and token, and whether it is whole."""
    head = HEAD.pack(token, name.encode()[-8:])
    return (head * (length // len(head) + 1))[:length]


def token_of(name: str, value: object) -> int:
    """The token of a value, 0 for none; LostError for another name's, or a part."""
    if value is None:
        return 0
    assert isinstance(value, bytes)
    token = int(HEAD.unpack_from(value)[0])
    if value != value_of(name, token, len(value)):
        raise LostError(f"{name}: a foreign value, or a part of one: {value[:32]!r}")
    return token


def act(cache: Cache, ledger: ObjectLedger, random: Random) -> None:
    """One call of a client, written down."""
    name, what = random.choice([*ledger.values]), random.random()
    if what < 0.1:
        one = ledger.begin(name, deletion=True)
        cache.delete(name)
        ledger.count("deletions")
    elif what < 0.15:
        cache.flush()
        ledger.all_durable()
        ledger.count("flushes")
    else:
        one = ledger.begin(name)
        value = value_of(name, one.token, random.choice(LENGTHS))
        if what < 0.6:
            cache.set(name, value, durable=True)
            one.durable = ledger.position()
            ledger.count("durable sets")
        else:
            cache.set(name, value, wait=what < 0.8)
            ledger.count("other sets")
