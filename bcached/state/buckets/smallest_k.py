# SPDX-License-Identifier: GPL-2.0-only
"""The k buckets of least weight in a scan over all of them, selected slice by slice.

Rules of this file: no step takes longer than a millisecond or two for any number of buckets, and the result
is exact: the `keep` lightest, in order, equal weights by position.

A heap, as in the kernel, would cost a call per bucket. Here all that is lighter than the limit is buffered
unsorted; when the buffer holds twice as much as wanted, a sample gives the new limit, and what is heavier is
dropped. The limit is never below the true one, so nothing that belongs to the result is lost.
"""

from collections.abc import Generator

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # weight in the high half, bucket in the low half: no two are equal

SAMPLED = 17  # every 17th word; odd, so that the sample meets no pattern of powers of two
PIECE_WORDS = 16384  # sorted at a time: half a millisecond
BUCKET_MASK = np.uint64(0xFFFFFFFF)


class SmallestK:
    """Keeps the `keep` lightest of all that is added; only weights below `limit` can still be among them.

    Slices have at most slice_buckets buckets and are added in ascending order.
    """

    def __init__(self, keep: int, slice_buckets: int) -> None:
        self.limit = 1 << 32
        self._keep = keep
        self._crowd = 2 * keep
        self._words: Words = np.empty(self._crowd + slice_buckets, np.uint64)
        self._count = 0

    def add(
        self, first_bucket: int, weights: npt.NDArray[np.uint32], indexes: npt.NDArray[np.int64]
    ) -> Generator[None, None, None]:
        """Buffer the buckets with these indexes in a slice; weights[i] is the weight of first_bucket + i."""
        words = self._words[self._count : self._count + len(indexes)]
        np.left_shift(weights[indexes], np.uint64(32), out=words, dtype=np.uint64)
        words |= (indexes + first_bucket).astype(np.uint64)
        self._count += len(indexes)
        if self._count >= self._crowd:
            yield
            yield from self._thin_out()

    def _thin_out(self) -> Generator[None, None, None]:
        words = self._words[: self._count]
        sample = words[::SAMPLED]
        # An eighth more than wanted, so that the sample's error seldom matters.
        place = min(len(sample) * self._keep * 9 // (len(words) * 8), len(sample) - 1)
        heaviest = np.partition(sample, place)[place]
        if not self._keep <= np.count_nonzero(words <= heaviest) <= self._keep * 3 // 2:
            # The sample was off. Too few would lose some of the lightest; too many would leave no space for
            # the next slice.
            heaviest = np.partition(words, self._keep - 1)[self._keep - 1]
        yield
        self._count = 0
        for start in range(0, len(words), PIECE_WORDS):
            piece = words[start : start + PIECE_WORDS]
            kept = piece[piece <= heaviest]
            words[self._count : self._count + len(kept)] = kept
            self._count += len(kept)
            yield
        self.limit = int(heaviest >> np.uint64(32))  # a later bucket of equal weight sorts after it

    def in_order(self) -> Generator[None, None, npt.NDArray[np.int64]]:
        """Returns the buckets, lightest first, sorted in pieces whose bounds a sample gives."""
        words = self._words[: self._count]
        every = PIECE_WORDS // SAMPLED
        borders = np.sort(words[::SAMPLED])[every::every]
        yield
        buckets = np.empty(self._keep, np.int64)
        count = 0
        for low, high in zip([np.uint64(0), *borders], [*borders, None], strict=True):
            inside = words >= low
            if high is not None:
                inside &= words < high
            piece = np.sort(words[inside])[: self._keep - count]
            buckets[count : count + len(piece)] = piece & BUCKET_MASK
            count += len(piece)
            yield
            if count == self._keep:
                break
        return buckets[:count]
