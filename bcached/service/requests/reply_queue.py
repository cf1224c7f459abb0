# SPDX-License-Identifier: GPL-2.0-only
"""Replies that cannot be sent yet, since an earlier one is outstanding, and their requests."""

import asyncio
from collections import deque

from msgspec import Raw, Struct

from bcached.service.requests.method import Stream

REQUESTS_BEHIND_MAX = 1024
REPLY_BYTES_BEHIND_MAX = 1 << 20
REQUEST_BYTES_BEHIND_MAX = 1 << 20
SLOT_BYTES = 1024  # estimate for a waiting request by itself: slot, future, task
DECODED_FACTOR = 4  # and times its length


class ReplySlot(Struct, eq=False):
    """The position of one reply in the order of a connection's replies; reply is None until it arrives.

    request_bytes is the length of a request that still runs or is still to be run.
    """

    kind: type
    started_ns: int
    request_bytes: int = 0
    silent: bool = False
    reply: Raw | None = None
    future: asyncio.Future[object] | None = None  # of its own: cancelled with the connection
    is_decided: bool = False  # only its reply is outstanding
    stream: Stream | None = None


class ReplyQueue:
    """Slots in the order of their requests; the reply of the first one is always outstanding."""

    __slots__ = ("reply_bytes", "request_bytes", "slots")

    def __init__(self) -> None:
        self.slots: deque[ReplySlot] = deque()
        self.reply_bytes = 0  # bytes of replies that wait behind the first slot
        self.request_bytes = 0  # of the requests without a reply

    def __repr__(self) -> str:
        waiting = [slot.kind.__name__ for slot in self.waiting()]
        behind = f"{len(self.slots) - len(waiting)} replies of {self.reply_bytes} bytes"
        return f"<ReplyQueue: {behind} behind {', '.join(waiting) or 'nothing'}>"

    @property
    def held_bytes(self) -> int:
        """Returns an estimate of the memory of all slots."""
        return len(self.slots) * SLOT_BYTES + self.request_bytes * DECODED_FACTOR + self.reply_bytes

    @property
    def head(self) -> ReplySlot | None:
        """Returns the slot that all others wait for."""
        return self.slots[0] if self.slots else None

    @property
    def free_slots(self) -> int:
        """Returns how many requests may run before the queue is full, if all of them have to wait."""
        return max(1, REQUESTS_BEHIND_MAX + 1 - len(self.slots))

    @property
    def is_full(self) -> bool:
        """Whether no more requests may run behind the waiting one."""
        return (
            len(self.slots) > REQUESTS_BEHIND_MAX
            or self.reply_bytes >= REPLY_BYTES_BEHIND_MAX
            or self.request_bytes >= REQUEST_BYTES_BEHIND_MAX + self._head_bytes
        )

    @property
    def _head_bytes(self) -> int:
        return self.slots[0].request_bytes if self.slots else 0

    def append(self, slot: ReplySlot) -> None:
        """Append a slot, with its reply or without."""
        self.slots.append(slot)
        self.request_bytes += slot.request_bytes
        if slot.reply is not None:
            self.reply_bytes += len(slot.reply)

    def set_reply(self, slot: ReplySlot, reply: Raw) -> None:
        """Set the reply of a slot; `pop_ready` is to follow. A silent slot is removed."""
        self.request_bytes -= slot.request_bytes
        if slot.silent:  # at once: oneway requests must not fill the queue behind one that waits for them
            self.slots.remove(slot)
        else:
            slot.reply = reply
            self.reply_bytes += len(reply)

    def pop_first(self) -> None:
        """Remove the first slot, whose reply is sent by the caller."""
        self.request_bytes -= self.slots.popleft().request_bytes

    def pop_ready(self) -> list[Raw]:
        """Remove and return all replies that can be sent now."""
        ready = []
        slots = self.slots
        while slots and (first := slots[0].reply) is not None:
            self.reply_bytes -= len(first)
            slots.popleft()
            ready.append(first)
        return ready

    def clear(self) -> list[ReplySlot]:
        """Remove and return all slots."""
        slots = list(self.slots)
        self.slots.clear()
        self.reply_bytes = 0
        self.request_bytes = 0
        return slots

    def waiting(self) -> list[ReplySlot]:
        """Returns the slots whose replies are outstanding, in order."""
        return [slot for slot in self.slots if slot.reply is None]
