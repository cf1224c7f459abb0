# SPDX-License-Identifier: MIT
"""Leases whole buckets, the next ones before they are needed."""

import time
from collections import deque
from contextlib import suppress

from bcached.client.attachment import Attachment
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.socket_channel import SocketChannel
from bcached.errors import NoFreeBuckets
from bcached.keys import Key

AHEAD_MS = 100  # how long the daemon may look for a bucket that is not needed yet: replies wait behind it
SET_SHARE = 128  # of the buckets of the set, this part at most is requested ahead by a client
PATIENCE_MS = 30_000
LAST_ANSWERS_S = 2.0  # how long a close waits for what was requested ahead, of a daemon that hangs
AHEAD_MAX, AHEAD_MIN, AHEAD_BYTES = 64, 16, 32 << 20  # buckets at most; at least, if not so many bytes
# Objects of the length of the last one for which space is requested ahead: twice as many after each wait.
AHEAD_OBJECTS, AHEAD_OBJECTS_MAX = 8, 64
LAST_SHARE = 4  # the next bucket is requested when less than this part of one is left, also for shorter ones


class Leases:
    """The leases of one connection. The caller holds the session's lock."""

    def __init__(self, channel: SocketChannel, at: Attachment) -> None:
        self._channel = channel
        self._at = at
        self._ahead: deque[Call[Key]] = deque()  # requested, and perhaps granted
        device = at.description.devices[0]
        self._bucket_sectors = device.bucket_sectors
        self._ahead_objects = AHEAD_OBJECTS
        most = max(AHEAD_MIN, AHEAD_BYTES // (device.bucket_bytes))
        self._ahead_max = max(1, min(most, AHEAD_MAX, device.bucket_count // SET_SHARE))

    def keep_ahead(self, sectors: int, left: int) -> None:
        """Request buckets for objects of so many sectors, unless enough is left or requested.

        left: sectors that are leased and not used; negative if some are needed at once.
        """
        bucket = self._bucket_sectors
        if left >= bucket // LAST_SHARE and left >= self._ahead_objects * sectors:
            return  # more than is compared below
        wanted = min(self._ahead_objects * sectors, self._ahead_max * bucket)
        left += len(self._ahead) * bucket
        if left < max(bucket // LAST_SHARE, wanted // 2):
            self.prepare(max(1, (wanted - left) // bucket))

    def prepare(self, count: int) -> None:
        """Request so many buckets without waiting for them, in one message to the daemon."""
        calls = [verbs.allocate_bucket(self._at, timeout_ms=AHEAD_MS) for _ in range(count)]
        self._channel.send(*calls)
        self._ahead += calls

    def take(self, timeout_ms: int = PATIENCE_MS) -> Key:
        """Returns a bucket. Raises NoFreeBuckets if there is none in time."""
        if self._ahead:
            call = self._ahead.popleft()
            self._await(call)
            try:
                return call.outcome()
            except NoFreeBuckets:
                pass  # there may be one now, and it is worth waiting for
        return self._channel.ask(verbs.allocate_bucket(self._at, timeout_ms=timeout_ms))

    def take_granted(self) -> list[Key]:
        """Returns the buckets that were requested ahead, as far as the daemon answers in time."""
        granted, deadline_s = [], time.monotonic() + LAST_ANSWERS_S
        while self._ahead and self._is_answered(self._ahead[0], deadline_s):
            with suppress(NoFreeBuckets):
                granted.append(self._ahead.popleft().outcome())
        return granted

    def _is_answered(self, call: Call[Key], deadline_s: float) -> bool:
        while not call.is_settled and (left_s := deadline_s - time.monotonic()) > 0:
            if not self._channel.take_arrived(left_s):
                break  # another thread reads
        return call.is_settled

    def _await(self, call: Call[Key]) -> None:
        self._channel.take_arrived()
        if not call.is_settled:
            self._ahead_objects = min(2 * self._ahead_objects, AHEAD_OBJECTS_MAX)
            self._channel.news(call)
