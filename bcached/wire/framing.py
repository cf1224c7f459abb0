"""Whole messages out of a stream of bytes: each ends with one NUL, and none is longer than the limit."""


class Frames:
    """The bytes of a connection that are not yet a whole message, and how long one may grow.

    Reading stops for good at a message that is too long: overrun then holds the length seen. begun counts the
    messages that came in parts, so that one who looks now and then can tell one from the next.
    """

    __slots__ = ("begun", "limit_bytes", "overrun", "partial")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.partial = bytearray()
        self.overrun = 0
        self.begun = 0

    def feed(self, data: bytes) -> bytes:
        """The whole messages there are now, NULs included, as one block; the rest is kept."""
        if data.endswith(b"\0") and not self.partial and len(data) <= self.limit_bytes:
            return data  # as nearly always: nothing is copied
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
        """Forget the message that has begun."""
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
