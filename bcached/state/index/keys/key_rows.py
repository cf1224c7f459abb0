# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a whole index in packed columns, a row for each pointer, for checks over all keys."""

from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn
from bcached.format.bkey import (
    KEY_DIRTY,
    KEY_INODE,
    KEY_SIZE,
    PTR_DEV,
    PTR_GEN,
    PTR_OFFSET,
    head_word,
    key_of_words,
    pointer_word,
)
from bcached.keys import Key, Pointer
from bcached.state.index.keys.extent_run import Run
from bcached.state.index.keys.extents import Extents

CHUNK_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows, field by field."""

    keys: NumberColumn  # the number of the key that the row belongs to
    inodes: NumberColumn
    ends: NumberColumn
    sectors: NumberColumn
    dirty: NDArray[np.bool_]
    devices: NumberColumn
    first_sectors: NumberColumn  # on the device
    gens: NumberColumn

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, chosen: NDArray[np.bool_] | NumberColumn) -> "Rows":
        """The chosen rows, by a mask or by their numbers; no copy if a mask chooses all, as most do."""
        if chosen.dtype == bool and bool(chosen.all()):
            return self
        return Rows(
            self.keys[chosen],
            self.inodes[chosen],
            self.ends[chosen],
            self.sectors[chosen],
            self.dirty[chosen],
            self.devices[chosen],
            self.first_sectors[chosen],
            self.gens[chosen],
        )

    def __iter__(self) -> Iterator[Key]:
        """Yields each row as a key with the one pointer of the row."""
        for row in range(len(self)):
            sectors, end = int(self.sectors[row]), int(self.ends[row])
            pointer = Pointer(int(self.devices[row]), int(self.first_sectors[row]), int(self.gens[row]))
            yield Key(int(self.inodes[row]), end - sectors, sectors, bool(self.dirty[row]), (pointer,))


class KeyRows:
    """The columns of all keys added so far, a row for each pointer."""

    def __init__(self) -> None:
        self.key_count = 0
        self._keys, self._heads, self._ends, self._pointers = array("I"), array("Q"), array("Q"), array("Q")

    def add(self, extents: Extents) -> None:
        """Append the keys of a leaf."""
        for run in extents.runs:
            self.add_run(run)

    def add_run(self, run: Run) -> None:
        """Append the keys of a run."""
        numbers = range(self.key_count, self.key_count + len(run))
        self.key_count += len(run)
        if len(run.pointers) == 1:
            self._keys.frombytes(np.arange(numbers.start, numbers.stop, dtype=np.uint32).tobytes())
            self._heads += run.heads
            self._ends += run.ends
            self._pointers += run.pointers[0]
            return
        for index, number in enumerate(numbers):
            self._append(number, run.heads[index], run.ends[index], run.words(index))

    def add_key(self, key: Key) -> None:
        """Append a single key."""
        self._append(
            self.key_count,
            head_word(key.inode, key.sectors, key.dirty, len(key.pointers)),
            key.end,
            map(pointer_word, key.pointers),
        )
        self.key_count += 1

    def _append(self, number: int, head: int, end: int, words: Iterable[int]) -> None:
        for word in words:
            self._keys.append(number)
            self._heads.append(head)
            self._ends.append(end)
            self._pointers.append(word)

    def take(self, numbers: Collection[int]) -> list[Key]:
        """Take the keys with these numbers out, and return them in order; the numbers of others stay."""
        if not numbers:
            return []
        wanted = np.fromiter(numbers, np.uint32, len(numbers))
        taken = np.isin(np.array(self._keys, np.uint32), wanted)
        keys = list[Key]()
        for _, group in groupby(np.flatnonzero(taken).tolist(), key=self._keys.__getitem__):
            rows = list(group)
            words = tuple(self._pointers[row] for row in rows)
            keys.append(key_of_words(self._heads[rows[0]], self._ends[rows[0]], words))
        self._keys, self._heads, self._ends, self._pointers = (
            array(column.typecode, np.array(column)[~taken].tobytes())
            for column in (self._keys, self._heads, self._ends, self._pointers)
        )
        return keys

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self._keys)

    def chunks(self) -> Iterator[Rows]:
        """Yields all rows in order, in chunks: unpacked they take more memory than packed."""
        stop = 0
        while stop < len(self._keys):
            start, stop = stop, min(stop + CHUNK_ROWS, len(self._keys))
            while stop < len(self._keys) and self._keys[stop] == self._keys[stop - 1]:
                stop += 1  # a key's rows stay together
            heads = np.array(self._heads[start:stop], np.uint64)
            words = np.array(self._pointers[start:stop], np.uint64)
            yield Rows(
                keys=np.array(self._keys[start:stop], np.int64),
                inodes=KEY_INODE.of_column(heads),
                ends=np.array(self._ends[start:stop], np.int64),
                sectors=KEY_SIZE.of_column(heads),
                dirty=KEY_DIRTY.of_column(heads) != 0,
                devices=PTR_DEV.of_column(words),
                first_sectors=PTR_OFFSET.of_column(words),
                gens=PTR_GEN.of_column(words),
            )
