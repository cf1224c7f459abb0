# SPDX-License-Identifier: GPL-2.0-only
"""The polling of a stream: its news are sent at intervals, until it ends or its connection closes."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from bcached.service.requests.method import Last, Stream
from bcached.wire.codec import Continued, encode_replies
from bcached.wire.messages import Results


class StreamSender(Protocol):
    """Sends what a stream returns."""

    write: Callable[[bytes], None]
    is_write_paused: bool  # the peer does not read

    def end_stream(self, results: Results) -> None:
        """Send the last reply of the stream, and what waits behind it."""

    def fail(self, error: Exception) -> None:
        """Report a bug."""


class StreamPoll:
    """Polls one stream, whose replies are the first of its connection until it ends."""

    __slots__ = ("_sender", "_stream", "_timer")

    def __init__(self, stream: Stream, sender: StreamSender) -> None:
        self._stream = stream
        self._sender = sender
        self._timer: asyncio.TimerHandle | None = None  # until the next poll

    def poll(self) -> None:
        """Send the stream's news if the peer reads; poll again after the interval."""
        sender = self._sender
        self._timer = None
        try:
            news = None if sender.is_write_paused else self._stream.following()
        except Exception as error:
            sender.fail(error)
            return
        if isinstance(news, Last):
            sender.end_stream(news.results)
            return
        if news is not None:
            sender.write(encode_replies([Continued(news)]))
        self._timer = asyncio.get_running_loop().call_later(self._stream.interval_s, self.poll)

    def stop(self) -> None:
        """Poll no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
