# SPDX-License-Identifier: MIT
"""Buffers that follow each other, taken piece by piece without a copy."""

from collections.abc import Sequence

Buffers = Sequence[bytes | bytearray | memoryview]


class PartsLeft:
    """What is left of them."""

    def __init__(self, parts: Buffers) -> None:
        self._parts = [memoryview(part) for part in reversed(parts)]

    def take(self, length: int) -> list[memoryview]:
        """Returns the next so many bytes."""
        taken = []
        while length:
            part = self._parts.pop()
            if len(part) > length:
                self._parts.append(part[length:])
                part = part[:length]
            taken.append(part)
            length -= len(part)
        return taken
