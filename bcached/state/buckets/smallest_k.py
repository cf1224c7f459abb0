"""The lightest buckets of a walk over all of them, gathered slice by slice.

Rules of this file: no step takes longer than a millisecond or two however many buckets there are, and what
comes out is exact: the `keep` lightest, in order, equal weights by position.

A heap, as the seed has one, would cost a call a bucket. Here whatever is lighter than the limit is put
aside unsorted; when twice as much as wanted has come together, a sample says where the new limit lies, and
what is beyond it goes. The limit is never below the true one, so nothing is lost that belongs to the best.
"""

from collections.abc import Generator

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # weight in the high half, bucket in the low half: no two are equal

SAMPLED = 17  # one word of so many; odd, so that no pattern of powers of two hides from the sample
PIECE_WORDS = 16384  # sorted at a time: half a millisecond
BUCKET_MASK = np.uint64(0xFFFFFFFF)


class Lightest:
    """Keeps the `keep` lightest of all that is added; only weights below `limit` can still be among them.

    Slices of at most slice_buckets are added in the order of their buckets.
    """

    def __init__(self, keep: int, slice_buckets: int) -> None:
        self.limit = 1 << 32
        self._keep = keep
        self._crowd = 2 * keep
        self._words: Words = np.empty(self._crowd + slice_buckets, np.uint64)
        self._count = 0

    def add(
        self, first_bucket: int, weights: npt.NDArray[np.uint32], places: npt.NDArray[np.int64]
    ) -> Generator[None, None, None]:
        """Put aside these places of a slice, which are light; weights[i] is of first_bucket + i."""
        words = self._words[self._count : self._count + len(places)]
        np.left_shift(weights[places], np.uint64(32), out=words, dtype=np.uint64)
        words |= (places + first_bucket).astype(np.uint64)
        self._count += len(places)
        if self._count >= self._crowd:
            yield
            yield from self._thin_out()

    def _thin_out(self) -> Generator[None, None, None]:
        words = self._words[: self._count]
        sample = words[::SAMPLED]
        # An eighth more than wanted, so that what a sample does not know seldom matters.
        place = min(len(sample) * self._keep * 9 // (len(words) * 8), len(sample) - 1)
        heaviest = np.partition(sample, place)[place]
        if not self._keep <= np.count_nonzero(words <= heaviest) <= self._keep * 3 // 2:
            # The sample deceived us. Too few would lose some of the best; too many would not leave room for
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
        self.limit = int(heaviest >> np.uint64(32))  # a later bucket of the same weight lies behind it

    def in_order(self) -> Generator[None, None, npt.NDArray[np.int64]]:
        """The buckets, lightest first: a piece at a time, between words that a sample chose."""
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
