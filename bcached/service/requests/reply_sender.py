# SPDX-License-Identifier: GPL-2.0-only
"""Sends the replies of a connection in the order of its requests."""

import asyncio
import time
from collections.abc import Callable, Sequence

from bcached.service.requests.method import Long
from bcached.service.requests.pipeline_server import PipelineServer
from bcached.service.requests.replies import Replies
from bcached.service.requests.reply_queue import ReplyQueue, ReplySlot
from bcached.service.requests.stream_poll import StreamPoll
from bcached.wire.codec import AnyReply, Refusal, encode_replies
from bcached.wire.messages import Results

Write = Callable[[bytes], None]


class ReplySender:
    """The replies of one connection that are not sent yet, and how they are sent.

    on_progress is called when replies were sent, so that more requests may run. The owner sets `write`, which
    sends bytes with others of the loop's iteration, and `write_at_once`, while the peer is connected, and
    `is_write_paused` while the peer does not read.
    """

    __slots__ = (
        "_poll",
        "_sends_soon",
        "_server",
        "is_write_paused",
        "on_progress",
        "queue",
        "replies",
        "slots",
        "write",
        "write_at_once",
    )

    def __init__(self, server: PipelineServer, on_progress: Callable[[], None]) -> None:
        self.is_write_paused = False
        self.write: Write = _discard
        self.write_at_once: Write = _discard
        self.queue = ReplyQueue()
        self.slots = self.queue.slots  # replies not sent yet, in order
        self.replies = Replies(server.counts)
        self.on_progress = on_progress
        self._server = server
        self._sends_soon = False  # `send_ready` is scheduled
        self._poll: StreamPoll | None = None  # of the first slot, while that is a stream

    @property
    def is_blocked(self) -> bool:
        """Whether no more requests may run for now."""
        return self.is_write_paused or self.queue.is_full

    def set_reply(self, slot: ReplySlot, outcome: Results | Long | Refusal) -> None:
        """Set the reply of a slot; it is sent by `send_soon` or `send_ready`, which is to follow."""
        reply = self.replies.encoded(slot.kind, outcome)
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        self.queue.set_reply(slot, reply)

    def send_soon(self) -> None:
        """Send what is ready together with what is ready later in this iteration of the loop."""
        if not self._sends_soon:
            self._sends_soon = True
            asyncio.get_running_loop().call_soon(self.send_ready)

    def send_ready(self) -> None:
        """Send what is ready, and let more requests run."""
        self._sends_soon = False
        try:
            self.send(self.queue.pop_ready())
        except Exception as error:
            self.fail(error)
            return
        self.on_progress()

    def send(self, ready: Sequence[AnyReply]) -> None:
        """Send replies that were removed from the queue, and begin a stream that is then first in it."""
        if ready:
            self.write(encode_replies(ready))
        slots = self.slots
        if slots and slots[0].stream is not None:
            self.poll_stream()

    def poll_stream(self) -> None:
        """Begin to poll the first slot, if it is a stream that is not polled yet."""
        if (head := self.queue.head) is not None and head.stream is not None and self._poll is None:
            self._poll = StreamPoll(head.stream, self)
            self._poll.poll()

    def end_stream(self, results: Results) -> None:
        """Send the last reply of the stream that is polled, and what waits behind it."""
        slot = self.slots[0]
        self.close_stream(slot)
        self.set_reply(slot, results)
        self.send_ready()

    def close_stream(self, slot: ReplySlot) -> None:
        """Close the stream of a slot, if it is one."""
        if slot.stream is None:
            return
        if self._poll is not None and slot is self.slots[0]:
            self._poll.stop()
            self._poll = None
        slot.stream.close()
        slot.stream = None

    def fail(self, error: Exception) -> None:
        """Report a bug: the daemon stops."""
        self._server.fail(error)

    def discard(self) -> None:
        """Send nothing more: the peer has left."""
        self.write = self.write_at_once = _discard
        self.is_write_paused = False

    def close(self) -> list[ReplySlot]:
        """Send nothing more; returns the slots that were not sent."""
        self.discard()
        self.on_progress = _nothing  # break the reference cycle: the collector rarely runs
        for slot in self.slots:
            self.close_stream(slot)
        return self.queue.clear()


def _nothing() -> None:
    """Ignore progress."""


def _discard(_: bytes) -> None:
    """Discard bytes: the peer is not connected yet, or not any more."""
