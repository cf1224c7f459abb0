# SPDX-License-Identifier: GPL-2.0-only
"""Passes on a scrape of another set's metrics: those of bcached@NAME, which listen on a Unix socket.

Prometheus cannot scrape a Unix socket, and a template's socket unit cannot know a free port. So the daemon
without a name answers for all of a host. It connects as any other client of that socket does.
"""

import asyncio
import socket
from collections.abc import Callable

from bcached.errors import reason

READ_BYTES = 1 << 18


class Relay:
    """One request to another daemon's socket, and its response as it comes.

    on_data is called with each part of it, and on_end when there is no more, with the error if nothing came.
    """

    def __init__(
        self, path: str, request: bytes, on_data: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._has_answered = False
        try:
            self._socket.connect(path)
            self._socket.send(request)  # all of it: the head of a request is shorter than a socket's buffer
        except OSError as error:
            self._loop.call_soon(self._end, f"{path}: {reason(error)}")
        else:
            self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Close the connection, and call nothing any more."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(reason(error))
            return
        if data:
            self._has_answered = True
            self._on_data(data)
        else:
            self._end("closed without an answer")

    def _end(self, error: str) -> None:
        if self._socket.fileno() >= 0:
            self.close()
            self._on_end("" if self._has_answered else error)
