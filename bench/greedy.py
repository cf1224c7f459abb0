# SPDX-License-Identifier: GPL-2.0-only
"""A client that takes what it can get: connections that keep as many requests under way as they may.

    python -m bench.greedy PATH CONNECTIONS DEPTH [UID] < REQUESTS

REQUESTS are messages with their NULs, sent again and again. It prints how many replies each connection got
when the first ones are there, and goes on until it is ended. It becomes user UID before it connects: that
user need not be able to read the interpreter.
"""

import os
import selectors
import socket
import sys
from itertools import cycle, islice

RECEIVE_BYTES = 1 << 16


class Taker:
    """One connection, which sends a request for each reply."""

    def __init__(self, path: str, requests: list[bytes], depth: int) -> None:
        self.requests = cycle(requests)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
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


def main() -> None:
    path, connections, depth = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    requests = [message + b"\0" for message in sys.stdin.buffer.read().split(b"\0")[:-1]]
    if len(sys.argv) > 4:
        os.setgroups([])
        os.setuid(int(sys.argv[4]))
    told = False
    with selectors.EpollSelector() as selector:
        takers = []
        for _ in range(connections):
            try:
                takers.append(Taker(path, requests, depth))
            except OSError:
                continue  # refused: it goes on with those it has
            selector.register(takers[-1].socket, selectors.EVENT_READ | selectors.EVENT_WRITE, takers[-1])
        while selector.get_map():
            for entry, _ in selector.select():
                taker = entry.data
                if not taker.go_on():
                    selector.unregister(taker.socket)
                    continue
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if taker.unsent else 0)
                if wanted != entry.events:
                    selector.modify(taker.socket, wanted, taker)
            if not told and sum(taker.replies for taker in takers) >= connections:
                told = True
                print(connections, flush=True)


if __name__ == "__main__":
    main()
