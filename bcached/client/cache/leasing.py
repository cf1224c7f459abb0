# SPDX-License-Identifier: MIT
"""Leases whole buckets, the next one before it is needed."""

from bcached.client.attachment import Attachment
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.socket_channel import SocketChannel
from bcached.errors import NoFreeBuckets
from bcached.keys import Key

AHEAD_MS = 100  # how long the daemon may look for a bucket that is not needed yet: replies wait behind it


class Leases:
    """The leases of one connection. The caller holds the session's lock."""

    def __init__(self, channel: SocketChannel, at: Attachment) -> None:
        self._channel = channel
        self._at = at
        self._ahead: Call[Key] | None = None  # requested, and perhaps granted

    def prepare(self) -> None:
        """Request a bucket without waiting for it."""
        if self._ahead is None:
            call = verbs.allocate_bucket(self._at, timeout_ms=AHEAD_MS)
            self._channel.send(call)
            self._ahead = call

    def take(self) -> Key:
        """Returns a bucket. Raises NoFreeBuckets if there is none in time."""
        call, self._ahead = self._ahead, None
        if call is not None:
            self._channel.news(call)
            try:
                return call.outcome()
            except NoFreeBuckets:
                pass  # there may be one now, and it is worth waiting for
        return self._channel.ask(verbs.allocate_bucket(self._at))
