"""Taking new connections, and resting when there is nothing left to take them with."""

import asyncio
import errno
import socket
from collections.abc import Callable

from bcached.service.logs.log import get_logger

PATIENCE_S = 1.0  # how long it rests when out of descriptors; one log line each time
ACCEPTS_AT_ONCE = 64  # then the other connections have their turn
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = get_logger(__name__)


class Acceptor:
    """Gives every new connection to `welcome`.

    The loops' own ways of accepting try again at once, and log each time, when the process is out of files.
    """

    def __init__(self, listener: socket.socket, welcome: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Take no more connections; the listener closes, what waits in its queue is refused by the kernel."""
        if self._rest is not None:
            self._rest.cancel()
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
                log.warning("cannot accept a connection", reason=error.strerror, again_in_s=PATIENCE_S)
                self._loop.remove_reader(self._listener)
                self._rest = self._loop.call_later(PATIENCE_S, self._go_on)
                return
            connection.setblocking(False)
            self._welcome(connection)

    def _go_on(self) -> None:
        self._rest = None
        self._loop.add_reader(self._listener, self._accept)
