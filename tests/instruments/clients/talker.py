# SPDX-License-Identifier: GPL-2.0-only
"""A client that says exactly the bytes it is told to, and reads replies one by one."""

import asyncio
import contextlib
import json
from typing import Any, Self, cast

from instruments.time.patience import patience


def call(method: str, parameters: dict[str, Any] | None = None, **envelope: Any) -> bytes:
    """A request's bytes, NUL included; a short method name is the Allocator's."""
    name = method if method.count(".") else f"io.bcached.Allocator.{method}"
    return json.dumps({"method": name, "parameters": parameters or {}, **envelope}).encode() + b"\0"


def allocate(offset: int = 0, sectors: int = 8, inode: int = 1, **envelope: Any) -> bytes:
    """An Allocate's bytes."""
    return call("Allocate", {"inode": inode, "offset": offset, "sectors": sectors}, **envelope)


class Talker:
    """One connection, as bare as can be."""

    def __init__(self, path: str, limit: int = 64 << 20) -> None:
        self._path = path
        self._limit = limit

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(self._path, limit=self._limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def say(self, *messages: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(messages))

    async def hear(self) -> Any:
        """The next reply."""
        async with patience(20):
            return json.loads((await self.reader.readuntil(b"\0"))[:-1])

    async def ask(self, message: bytes) -> Any:
        """Say one thing and hear what comes."""
        self.say(message)
        return await self.hear()

    async def hears_nothing_for(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False

    async def hears_the_end(self) -> bool:
        """Whether the server closes, with nothing more said."""
        async with patience(20):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    def stop_reading(self) -> None:
        """Take nothing more from the socket."""
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def read_on(self) -> None:
        """Take what has come since, and what comes."""
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    def hang_up(self) -> None:
        """Vanish, as a killed process does."""
        self.writer.transport.abort()


def outcome(reply: dict[str, Any]) -> str:
    """The last word of an error's name, or "ok"."""
    return reply["error"].rpartition(".")[2] if "error" in reply else "ok"
