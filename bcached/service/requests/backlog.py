# SPDX-License-Identifier: GPL-2.0-only
"""Whole messages of one connection that cannot run yet.

They are kept as received bytes: decoded they would take several times as much memory. A few at a time are
decoded when the reply queue has space.
"""

CHUNK_MIN, CHUNK_MAX = 8, 64


class Backlog:
    """Messages, each with its NUL: those of `block` from an offset on. `block` is empty if there are none.

    chunk: how many to decode at a time, about as many as run in one turn.
    """

    __slots__ = ("_at", "block", "chunk")

    def __init__(self) -> None:
        self.block = b""
        self.chunk = CHUNK_MAX
        self._at = 0

    def add(self, block: bytes, past: int = 0) -> None:
        """Append the messages of a block, without its first `past` ones."""
        self.block = self.block[self._at :] + block[end_of(block, 0, past) :]
        self._at = 0

    def first(self, count: int) -> bytes:
        """Returns the first messages, at most `count`."""
        return self.block[self._at : end_of(self.block, self._at, count)]

    def drop(self, count: int) -> None:
        """Remove the first `count` messages, which have run."""
        self.chunk = min(max(CHUNK_MIN, 2 * count), CHUNK_MAX)
        self._at = end_of(self.block, self._at, count)
        if self._at == len(self.block):
            self.clear()

    def clear(self) -> None:
        """Remove all messages."""
        self.block, self._at = b"", 0


def end_of(block: bytes, start: int, count: int) -> int:
    """Returns the offset behind the first `count` messages from start on."""
    while count and start < len(block):
        start = block.index(0, start) + 1
        count -= 1
    return start


def lengths(block: bytes) -> list[int]:
    """Returns the length of each message of a block."""
    return [len(message) for message in block.split(b"\0")]
