# SPDX-License-Identifier: GPL-2.0-only
"""Bit fields of a word: shift and width are defined once, beside the kernel's name."""

import numpy as np
from numpy.typing import NDArray

WordColumn = NDArray[np.uint64]  # words as they are on disk
NumberColumn = NDArray[np.int64]  # values of a field, or indices


class BitField:
    """Bits [shift, shift + width) of an unsigned word."""

    __slots__ = ("limit", "mask", "shift")

    def __init__(self, shift: int, width: int) -> None:
        self.shift = shift
        self.limit = (1 << width) - 1  # the largest value that fits
        self.mask = self.limit << shift

    def get(self, word: int) -> int:
        """Returns the field's value in word."""
        return (word & self.mask) >> self.shift

    def of_column(self, words: WordColumn) -> NumberColumn:
        """Returns the field's value in each of a column of words; only for fields below the sign bit."""
        assert self.limit < 1 << 63
        column: NumberColumn = ((words & np.uint64(self.mask)) >> np.uint64(self.shift)).astype(np.int64)
        return column

    def to_column(self, values: NumberColumn) -> WordColumn:
        """Returns a column of words with only this field set, to these values, which must fit."""
        return values.astype(np.uint64) << np.uint64(self.shift)

    def put(self, word: int, value: int) -> int:
        """Returns the word with the field set to value."""
        assert 0 <= value <= self.limit, f"{value} does not fit in {self.limit.bit_length()} bits"
        return (word & ~self.mask) | (value << self.shift)
