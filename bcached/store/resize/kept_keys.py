# SPDX-License-Identifier: GPL-2.0-only
"""The keys of an index that stay when a member becomes smaller."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from bcached.format.bkey import HEAD_WORDS
from bcached.keys import Key
from bcached.state.index.keys.key_rows import Rows
from bcached.store.check.checker import CheckedSet


@dataclass(frozen=True, slots=True)
class FittingKeys:
    """Live keys, without the pointers behind the end of a member."""

    checked: CheckedSet
    member: int
    end: int  # bucket

    def words(self) -> int:
        """Returns how many words they take."""
        words = 0
        for rows in self._chunks():
            words += len(rows) + HEAD_WORDS * len(np.unique(rows.keys))
        return words

    def __iter__(self) -> Iterator[Key]:
        """Yields them in order."""
        for rows in self._chunks():
            kept: Key | None = None
            last = -1
            for number, key in zip(rows.keys.tolist(), rows, strict=True):
                if kept is not None and number == last:
                    kept = msgspec.structs.replace(kept, pointers=kept.pointers + key.pointers)
                    continue
                if kept is not None:
                    yield kept
                kept, last = key, number
            if kept is not None:
                yield kept

    def _chunks(self) -> Iterator[Rows]:
        if self.checked.tree is None:
            return
        for rows in self.checked.tree.rows.chunks():
            yield rows.where(self._stays(rows) & (rows.sectors > 0))

    def _stays(self, rows: Rows) -> NDArray[np.bool_]:
        stays = np.zeros(len(rows), bool)
        for device, census in enumerate(self.checked.censuses):
            here = rows.devices == device
            buckets = census.geometry.buckets_of(rows.first_sectors[here])
            live = census.gens[buckets] == rows.gens[here]
            stays[here] = live & (buckets < self.end) if device == self.member else live
        return stays
