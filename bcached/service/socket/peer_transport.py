# SPDX-License-Identifier: GPL-2.0-only
"""The transport of one connection: how bytes are sent to the peer, and whether the peer is still there."""

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import cast

Write = Callable[[bytes], None]

READ_BYTES, READS_MAX = 1 << 18, 4  # more than a socket has room for; one that only stops reading may go on


class PeerTransport:
    """The transport while the peer is connected; otherwise all that is asked of it has no effect."""

    __slots__ = ("_descriptor", "_transport", "is_connected", "is_reading_paused", "unread_bytes")

    def __init__(self) -> None:
        self.is_connected = False
        self.is_reading_paused = False
        self.unread_bytes: Callable[[], int] = _no_bytes  # how many wait for the peer to read
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1

    def connect(self, transport: asyncio.BaseTransport) -> tuple[Write, Write]:
        """Keep the transport; returns how bytes are sent with others of the loop's iteration, and at once."""
        self._transport = made = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._descriptor = made.get_extra_info("socket").fileno()
        self.is_connected = True
        self.unread_bytes = made.get_write_buffer_size
        if isinstance(transport, asyncio.Transport):
            return self._write, self._write
        return made.write, self._write_at_once  # uvloop ignores writes after the peer's end

    def disconnect(self) -> None:
        """Forget the transport: the connection is lost."""
        self._transport = None
        self.is_connected = False
        self.unread_bytes = _no_bytes

    def unread(self) -> bytes:
        """Returns what the peer has sent before it closed its end, and the transport did not read."""
        parts: list[bytes] = []
        with suppress(OSError):  # all is read
            while self._transport is not None and len(parts) < READS_MAX:
                parts.append(os.read(self._descriptor, READ_BYTES))
        return b"".join(parts)

    def limit_unread(self, size_bytes: int) -> None:
        """Pause writing as soon as so many bytes wait for the peer to read."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=size_bytes)

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self.is_reading_paused and self._transport is not None and not self._transport.is_closing():
            self.is_reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self.is_reading_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection once the peer has read all."""
        if self._transport is not None:
            self._transport.close()

    def close_with(self, last: bytes) -> None:
        """Close the connection at once; the peer gets these bytes unless it does not read."""
        transport = self._transport
        if transport is None:
            return
        if transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.write(last)
            transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def is_gone(self) -> bool:
        """Whether the peer has closed its end, rather than only shut down its sending direction."""
        descriptor = -1 if self._transport is None else self._transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return True
        poll = select.poll()
        poll.register(descriptor, 0)  # no event requested: POLLHUP (both directions shut) is always reported
        return bool(poll.poll(0))

    def _write(self, data: bytes) -> None:
        """Send it, unless the peer has closed its end: asyncio logs each further attempt."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _write_at_once(self, data: bytes) -> None:
        """Send it now: uvloop sends what is written when all reads of the iteration were handled."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not transport.get_write_buffer_size():
            with suppress(OSError):  # its buffer is full, or the peer is gone
                data = data[os.write(self._descriptor, data) :]
        if data:
            transport.write(data)


def _no_bytes() -> int:
    """No bytes wait: the peer is not connected yet, or not any more."""
    return 0
