"""Replies that cannot go out yet, since one before them is still to come, and the requests they are for."""

import asyncio
from collections import deque

from msgspec import Raw, Struct

from bcached.service.socket.method import Stream

REQUESTS_BEHIND_MAX = 1024
REPLY_BYTES_BEHIND_MAX = 1 << 20
REQUEST_BYTES_BEHIND_MAX = 1 << 20
SLOT_BYTES = 1024  # about what a request that waits takes by itself: slot, future, task
DECODED_FACTOR = 4  # and for each of its bytes


class Slot(Struct, eq=False):
    """The place of one reply in the order of a connection's replies; reply is None until it is there.

    request_bytes is the length of a request that still runs or is still to be run.
    """

    kind: type
    started_ns: int
    request_bytes: int = 0
    silent: bool = False
    reply: Raw | None = None
    future: asyncio.Future[object] | None = None
    is_decided: bool = False
    stream: Stream | None = None


class ReplyQueue:
    """Slots in the order of their requests; the first one is always still to come."""

    __slots__ = ("reply_bytes", "request_bytes", "slots")

    def __init__(self) -> None:
        self.slots: deque[Slot] = deque()
        self.reply_bytes = 0
        self.request_bytes = 0

    @property
    def held_bytes(self) -> int:
        """About how much memory all of it takes."""
        return len(self.slots) * SLOT_BYTES + self.request_bytes * DECODED_FACTOR + self.reply_bytes

    @property
    def head(self) -> Slot | None:
        """The slot that all others wait for."""
        return self.slots[0] if self.slots else None

    @property
    def is_full(self) -> bool:
        """Whether no more requests may run behind the one that waits."""
        return (
            len(self.slots) > REQUESTS_BEHIND_MAX
            or self.reply_bytes >= REPLY_BYTES_BEHIND_MAX
            or self.request_bytes >= REQUEST_BYTES_BEHIND_MAX + self._head_bytes
        )

    @property
    def _head_bytes(self) -> int:
        return self.slots[0].request_bytes if self.slots else 0

    def append(self, slot: Slot) -> None:
        """Give a reply its place, there already or not."""
        self.slots.append(slot)
        self.request_bytes += slot.request_bytes
        if slot.reply is not None:
            self.reply_bytes += len(slot.reply)

    def fill(self, slot: Slot, reply: Raw) -> list[Raw]:
        """The reply for a slot has come; all replies that can go out now, silent ones left out."""
        slot.reply = reply
        self.request_bytes -= slot.request_bytes
        self.reply_bytes += len(reply)
        ready = []
        while self.slots and (first := self.slots[0].reply) is not None:
            self.reply_bytes -= len(first)
            if not self.slots.popleft().silent:
                ready.append(first)
        return ready

    def clear(self) -> list[Slot]:
        """Forget all slots; which they were."""
        slots = list(self.slots)
        self.slots.clear()
        self.reply_bytes = 0
        self.request_bytes = 0
        return slots

    def waiting(self) -> list[Slot]:
        """The slots whose replies are still to come, in their order."""
        return [slot for slot in self.slots if slot.reply is None]
