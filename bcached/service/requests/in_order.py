# SPDX-License-Identifier: GPL-2.0-only
"""The in-order requests of one connection: which may run now, and those deferred until they may."""

from collections import deque

from bcached.service.requests.method import Operation
from bcached.service.requests.reply_queue import ReplySlot
from bcached.wire.methods import Request


class InOrderRequests:
    """Those that run and are not done, and those deferred behind them, in the order sent.

    A change is done once it is made: its reply may wait for the journal. A read is done once it is answered.
    """

    __slots__ = ("_change", "_deferred", "_reads")

    def __init__(self) -> None:
        self._change: ReplySlot | None = None  # the change that is not made yet: there is never a second one
        self._reads: set[ReplySlot] = set()  # the reads that are not answered yet
        self._deferred: deque[tuple[ReplySlot, Request, Operation]] = deque()

    def __repr__(self) -> str:
        running = f"{'a change' if self._change else 'no change'} and {len(self._reads)} reads run"
        return f"<InOrderRequests: {running}, {len(self._deferred)} deferred>"

    def must_wait(self, operation: Operation) -> bool:
        """Whether a new request has to wait: nothing overtakes one that is deferred."""
        if self._deferred or self._change is not None:
            return True
        return operation.changes and bool(self._reads)

    def defer(self, slot: ReplySlot, request: Request, operation: Operation) -> None:
        """Keep a request until `next` returns it."""
        self._deferred.append((slot, request, operation))

    def begin(self, slot: ReplySlot, operation: Operation) -> None:
        """Note a request that runs, and is not done at once."""
        if operation.changes:
            self._change = slot
        else:
            self._reads.add(slot)

    def end(self, slot: ReplySlot) -> None:
        """Note that a request is done; any other slot is ignored."""
        if self._change is slot:
            self._change = None
        self._reads.discard(slot)

    def next(self) -> tuple[ReplySlot, Request] | None:
        """Remove and return the first deferred request if it may run now."""
        if not self._deferred or self._is_early(self._deferred[0][2]):
            return None
        slot, request, _ = self._deferred.popleft()
        return slot, request

    def clear(self) -> None:
        """Drop what is deferred."""
        self._deferred.clear()

    def _is_early(self, operation: Operation) -> bool:
        return self._change is not None or (operation.changes and bool(self._reads))
