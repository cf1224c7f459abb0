"""Whole messages of one connection that cannot run yet.

They are kept as the bytes they came in: decoded they would take several times as much. A few at a time are
decoded when there is room to run them.
"""


class Backlog:
    """Messages, each with its NUL: those of `block` from a place on. `block` is empty if there are none."""

    __slots__ = ("_at", "block")

    def __init__(self) -> None:
        self.block = b""
        self._at = 0

    def add(self, block: bytes, past: int = 0) -> None:
        """Put behind all others what a block holds past so many messages."""
        self.block = self.block[self._at :] + block[end_of(block, 0, past) :]
        self._at = 0

    def first(self, count: int) -> bytes:
        """The first messages, as many as count if there are so many."""
        return self.block[self._at : end_of(self.block, self._at, count)]

    def drop(self, count: int) -> None:
        """So many have run."""
        self._at = end_of(self.block, self._at, count)
        if self._at == len(self.block):
            self.clear()

    def clear(self) -> None:
        """None is to run any more."""
        self.block, self._at = b"", 0


def end_of(block: bytes, start: int, count: int) -> int:
    """Where the first so many messages from start on end."""
    while count and start < len(block):
        start = block.index(0, start) + 1
        count -= 1
    return start


def lengths(block: bytes) -> list[int]:
    """How long each of its messages is."""
    return [len(message) for message in block.split(b"\0")]
