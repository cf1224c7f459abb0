# SPDX-License-Identifier: GPL-2.0-only
"""One client that allocates, one request at a time, and notes how long each answer took."""

import json
import os
import socket
from time import perf_counter
from typing import Self

from bench.peers import CLIENT_CORE
from bench.requests import EXTENT_SECTORS

AT_ONCE = 64


class Caller:
    """A connection; what it allocated it releases, and that is not measured."""

    def __init__(self, path: str, inode: int) -> None:
        os.sched_setaffinity(0, {CLIENT_CORE})
        self.took_s: list[float] = []
        asked: dict[str, object] = {"inode": inode, "offset": 0, "sectors": EXTENT_SECTORS}
        self._request = _call("Allocate", asked)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def allocate_some(self) -> None:
        """Some allocations, and their release."""
        keys = []
        for _ in range(AT_ONCE):
            began = perf_counter()
            reply = self._ask(self._request)
            self.took_s.append(perf_counter() - began)
            keys += json.loads(reply[:-1])["parameters"]["keys"]
        self._ask(_call("Release", {"keys": keys}))

    def _ask(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        reply = b""
        while not reply.endswith(b"\0"):
            reply += self._socket.recv(1 << 16)
        if b'"error"' in reply:
            raise RuntimeError(reply.decode())
        return reply


def _call(method: str, parameters: dict[str, object]) -> bytes:
    call = {"method": f"io.bcached.Allocator.{method}", "parameters": parameters}
    return json.dumps(call).encode() + b"\0"
