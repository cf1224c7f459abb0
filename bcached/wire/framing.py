# SPDX-License-Identifier: MIT
"""Splits a stream of bytes into messages: each ends with one NUL, and none exceeds the limit."""


class Frames:
    """The bytes of a connection that are not a whole message yet, and the limit of a message.

    Reading stops for good at a message that is too long: overrun then holds the length seen. begun counts the
    messages that arrived in parts, so that a periodic check can tell one from the next.
    """

    __slots__ = ("begun", "limit_bytes", "overrun", "partial")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.partial = bytearray()
        self.overrun = 0
        self.begun = 0

    def feed(self, data: bytes) -> bytes:
        """Add bytes; returns the messages completed, NULs included, as one block. The rest is kept."""
        if data.endswith(b"\0") and not self.partial and len(data) <= self.limit_bytes:
            return data  # the common case: nothing is copied
        end = data.rfind(0) + 1
        if end == 0:
            self.partial += data
            block = b""
        else:
            block = bytes(self.partial) + data[:end]
            self.partial = bytearray(data[end:])
            self.begun += 1
        if len(block) > self.limit_bytes or len(self.partial) > self.limit_bytes:
            return self._up_to_the_overrun(block)
        return block

    def give_up(self) -> None:
        """Drop the partial message."""
        self.partial = bytearray()

    def _up_to_the_overrun(self, block: bytes) -> bytes:
        start = 0
        while start < len(block):
            end = block.index(0, start)
            if end - start > self.limit_bytes:
                return self._overrun(end - start, block[:start])
            start = end + 1
        if len(self.partial) > self.limit_bytes:
            return self._overrun(len(self.partial), block)
        return block

    def _overrun(self, length: int, block: bytes) -> bytes:
        self.overrun = length
        self.partial = bytearray()
        return block
