# SPDX-License-Identifier: GPL-2.0-only
"""A client that takes what it can get: connections that keep as many requests under way as they may.

    python -m bench.greedy PATH CONNECTIONS DEPTH BEGIN [UID] < REQUESTS

REQUESTS are messages with their NULs, sent again and again; a connection that is closed is made again. It
prints how many connections there are once it has BEGIN replies from each, or so many seconds have passed, and
goes on until it is ended. It becomes user UID before it connects: that user need not be able to read the
interpreter.
"""

import os
import selectors
import socket
import sys
import time
from itertools import cycle, islice

RECEIVE_BYTES = 1 << 16
PAUSE_S = 0.2  # before a refused connection is tried again
SECONDS_MAX = 3.0


class Taker:
    """One connection, which sends a request for each reply."""

    def __init__(self, path: str, requests: list[bytes], depth: int) -> None:
        self.requests = cycle(requests)
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self.unsent = self._more(depth)
        self.replies = 0

    def _more(self, count: int) -> bytes:
        return b"".join(islice(self.requests, count))

    def go_on(self) -> bool:
        """Receive and send what is possible; returns whether the daemon still answers."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                return False
            count = data.count(0)
            self.replies += count
            self.unsent += self._more(count)
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :] if self.unsent else b""
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def connected(path: str, requests: list[bytes], depth: int) -> Taker | None:
    """A new connection, or None if it is refused."""
    try:
        return Taker(path, requests, depth)
    except OSError:
        return None


def main() -> None:
    path, connections, depth, begin = sys.argv[1], *map(int, sys.argv[2:5])
    requests = [message + b"\0" for message in sys.stdin.buffer.read().split(b"\0")[:-1]]
    if len(sys.argv) > 5:
        os.setgroups([])
        os.setuid(int(sys.argv[5]))
    told, replies, tell_at = False, 0, time.monotonic() + SECONDS_MAX
    with selectors.EpollSelector() as selector:
        count = 0
        while True:
            while count < connections and (taker := connected(path, requests, depth)) is not None:
                selector.register(taker.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, taker)
                count += 1
            for entry, _ in selector.select(PAUSE_S):
                taker = entry.data
                before = taker.replies
                if not taker.go_on():
                    selector.unregister(taker.socket)
                    taker.socket.close()
                    count -= 1
                    continue
                replies += taker.replies - before
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if taker.unsent else 0)
                if wanted != entry.events:
                    selector.modify(taker.socket, wanted, taker)
            if not told and (replies >= begin * connections or time.monotonic() > tell_at):
                told = True
                print(count, flush=True)


if __name__ == "__main__":
    main()
