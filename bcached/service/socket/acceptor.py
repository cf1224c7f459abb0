# SPDX-License-Identifier: GPL-2.0-only
"""Accepting connections, with a pause when the process is out of descriptors."""

import asyncio
import errno
import socket
from collections.abc import Callable

from bcached.service.logs.log import get_logger

ACCEPT_RETRY_S = 1.0  # the pause when out of descriptors; one log line each time
ACCEPTS_AT_ONCE = 64  # then existing connections are served
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = get_logger(__name__)


class Acceptor:
    """Passes every new connection to `on_connection`.

    The event loops' own accept retries at once, and logs each time, when the process is out of descriptors.
    """

    def __init__(self, listener: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._on_connection = on_connection
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more: the listener closes, and the kernel resets the connections in its queue."""
        if self._retry is not None:
            self._retry.cancel()
        else:
            self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.warning("cannot accept a connection", reason=error.strerror, again_in_s=ACCEPT_RETRY_S)
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(ACCEPT_RETRY_S, self._resume)
                return
            connection.setblocking(False)
            self._on_connection(connection)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)
