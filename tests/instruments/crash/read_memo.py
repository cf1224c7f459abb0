# SPDX-License-Identifier: GPL-2.0-only
"""Work that only reads is done once for the same contents, and found again by what it read.

What it reads next follows from what it has read so far. So its reads make a tree: at each node a place, below
it the contents found there, and at the end the result. To look up a result is to follow the tree with the
contents of another image; where that leaves the tree, something is new.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Read(NamedTuple):
    """A read of one device of several."""

    device: int
    offset: int
    length: int


class Readable(Protocol):
    """A device whose contents have prints: the same for the same contents."""

    def print_of(self, offset: int, length: int) -> int:
        """The print of an extent."""


class _Step(Generic[T]):
    __slots__ = ("following", "read", "result")

    def __init__(self) -> None:
        self.read: Read | None = None
        self.following: dict[int, _Step[T]] = {}
        self.result: T | None = None


class ReadMemo(Generic[T]):
    """Results by the contents that they came from."""

    def __init__(self) -> None:
        self.results = 0
        self._first: _Step[T] = _Step()

    def find(self, devices: Sequence[Readable]) -> T | None:
        """The result for these contents, if it is known."""
        step = self._first
        while step.read is not None:
            device, offset, length = step.read
            following = step.following.get(devices[device].print_of(offset, length))
            if following is None:
                return None
            step = following
        return step.result

    def learn(self, reads: Sequence[tuple[Read, int]], result: T) -> None:
        """Remember what came of these reads, one after the other, each with the print of what was there."""
        step = self._first
        seen: set[Read] = set()
        for read, found in reads:
            if read in seen:
                continue  # what was read once is known
            seen.add(read)
            assert step.read in (None, read), "what is read next does not follow from what was read"
            step.read = read
            step = step.following.setdefault(found, _Step())
        step.result = result
        self.results += 1
