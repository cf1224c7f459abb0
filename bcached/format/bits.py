"""Bit fields of a word: the shift and the width stand in one place, beside the kernel's name."""


class BitField:
    """Bits [shift, shift + width) of an unsigned word."""

    __slots__ = ("limit", "mask", "shift")

    def __init__(self, shift: int, width: int) -> None:
        self.shift = shift
        self.limit = (1 << width) - 1  # the largest value that fits
        self.mask = self.limit << shift

    def get(self, word: int) -> int:
        """The field's value in word."""
        return (word & self.mask) >> self.shift

    def put(self, word: int, value: int) -> int:
        """The word with the field set to value."""
        assert 0 <= value <= self.limit, f"{value} does not fit in {self.limit.bit_length()} bits"
        return (word & ~self.mask) | (value << self.shift)
