# SPDX-License-Identifier: GPL-2.0-only
"""The replies of requests that are done, while they wait for what other requests wait for, too."""

import asyncio
import time

from bcached.errors import RequestError
from bcached.service.requests.method import Decided
from bcached.service.requests.pipeline_server import PipelineServer, report_bug
from bcached.service.requests.reply_queue import ReplySlot
from bcached.service.requests.reply_sender import ReplySender
from bcached.wire.codec import AnyReply, Reply
from bcached.wire.messages import Results


class DecidedReplies:
    """The decided replies of one connection: those that wait for one future are sent by one write."""

    __slots__ = ("_sender", "_server", "_waiting")

    def __init__(self, server: PipelineServer, sender: ReplySender) -> None:
        self._server = server
        self._sender = sender
        self._waiting: dict[asyncio.Future[None], list[tuple[ReplySlot, Results]]] = {}

    def add(self, slot: ReplySlot, outcome: Decided) -> None:
        """Send the reply of this slot once its future is done."""
        slot.is_decided = True
        waiting = self._waiting.get(outcome.recorded)
        if waiting is None:
            self._waiting[outcome.recorded] = waiting = []
            outcome.recorded.add_done_callback(self._on_recorded)
        waiting.append((slot, outcome.results))

    def clear(self) -> None:
        """Send none of them: the connection is closed."""
        self._waiting.clear()

    def _on_recorded(self, recorded: "asyncio.Future[None]") -> None:
        """Send the replies that wait for this future."""
        failure = recorded.exception()
        waiting = self._waiting.pop(recorded, None)
        if waiting is None:  # the connection is closed
            report_bug(self._server, recorded)
            return
        sender = self._sender
        try:
            if failure is not None and not isinstance(failure, RequestError):
                raise failure
            now_ns, queue, counts = time.perf_counter_ns(), sender.queue, self._server.counts
            replies: list[AnyReply] = []
            for slot, results in waiting:
                if failure is None and slot is queue.slots[0] and not slot.silent:  # nearly always
                    counts.of(slot.kind).observe(1, now_ns - slot.started_ns)
                    queue.pop_first()
                    replies.append(Reply(results))
                else:
                    outcome = results if failure is None else sender.replies.refusal(slot.kind, failure)
                    sender.set_reply(slot, outcome)
            if queue.slots:
                replies += queue.pop_ready()
            sender.send(replies)
        except Exception as error:
            sender.fail(error)
            return
        sender.on_progress()
