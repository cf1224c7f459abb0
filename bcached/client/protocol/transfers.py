# SPDX-License-Identifier: MIT
"""Concurrent reads and writes: the data steps of a plan.

A long extent is divided into parts, and each copy of an extent is a part of its own: a device serves several
at a time.
"""

from collections.abc import Callable, Iterable, Sequence

from bcached.client.data.aligned_buffers import PART_BYTES
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES

PART_SECTORS = PART_BYTES // SECTOR_BYTES


class Reads:
    """Reads of so many sectors from each pointer; the result is in the same order."""

    is_divided = False

    def __init__(self, wanted: Sequence[tuple[Pointer, int]]) -> None:
        self.wanted = self.jobs = wanted
        for _, sectors in wanted:
            if sectors > PART_SECTORS:
                self.is_divided, self.jobs = True, list(self._parts())
                break

    def whole(self, parts: Sequence[bytes]) -> Sequence[bytes]:
        """Returns the requested data from the results of the jobs."""
        if not self.is_divided:
            return parts
        left = iter(parts)
        return [b"".join([next(left) for _ in _steps(sectors)]) for _, sectors in self.wanted]

    def _parts(self) -> Iterable[tuple[Pointer, int]]:
        for pointer, sectors in self.wanted:
            for at in _steps(sectors):
                yield _moved(pointer, at), min(PART_SECTORS, sectors - at)


class Writes:
    """Writes of the data of keys at every pointer. Counts the jobs that have not returned yet."""

    def __init__(self, wanted: Iterable[tuple[Key, memoryview]]) -> None:
        self.jobs = [part for key, data in wanted for part in _written_parts(key, data)]
        self._under_way = 0
        self._afterwards: list[Callable[[], None]] = []

    def job_begins(self) -> None:
        """A job was handed to a thread."""
        self._under_way += 1

    def job_returned(self) -> None:
        """A job has returned."""
        self._under_way -= 1
        while not self._under_way and self._afterwards:
            self._afterwards.pop(0)()

    def when_returned(self, call: Callable[[], None]) -> None:
        """Set the callback for when no job is running; none may begin any more."""
        if self._under_way:
            self._afterwards.append(call)
        else:
            call()


def _written_parts(key: Key, data: memoryview) -> Iterable[tuple[Key, memoryview]]:
    if key.sectors <= PART_SECTORS and len(key.pointers) == 1:
        yield key, data
        return
    for at in _steps(key.sectors):
        sectors = min(PART_SECTORS, key.sectors - at)
        part = data[at * SECTOR_BYTES : (at + sectors) * SECTOR_BYTES]
        for pointer in key.pointers:
            yield Key(key.inode, key.offset + at, sectors, key.dirty, (_moved(pointer, at),)), part


def _steps(sectors: int) -> range:
    return range(0, sectors, PART_SECTORS)


def _moved(pointer: Pointer, sectors: int) -> Pointer:
    return Pointer(pointer.device, pointer.sector + sectors, pointer.gen)
