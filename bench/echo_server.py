# SPDX-License-Identifier: GPL-2.0-only
"""What the loop alone costs: a uvloop Protocol that gives every byte back, or only decodes and answers.

python -m bench.echo_server PATH echo      write back what was read
python -m bench.echo_server PATH codec     split at NUL, decode with msgspec, encode an answer of the usual
                                           shape, one write a read: our wire without an allocator behind it
"""

import asyncio
import sys
from typing import cast

import msgspec
import uvloop


class Echo(asyncio.Protocol):
    """Gives back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own type is not derived from it

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Pointer(msgspec.Struct, frozen=True, gc=False):
    device: int
    sector: int
    gen: int


class Key(msgspec.Struct, frozen=True, gc=False):
    inode: int
    offset: int
    sectors: int
    dirty: bool
    pointers: tuple[Pointer, ...]


class Keys(msgspec.Struct, frozen=True, gc=False):
    keys: tuple[Key, ...]


class Reply(msgspec.Struct, frozen=True, gc=False):
    parameters: Keys


class Parameters(msgspec.Struct, frozen=True, gc=False):
    inode: int
    offset: int
    sectors: int


class Request(msgspec.Struct, frozen=True, gc=False):
    method: str
    parameters: Parameters


class Codec(Echo):
    """Decodes each request and answers with a key that nobody allocated."""

    decode = staticmethod(msgspec.json.Decoder(Request).decode)
    encode = staticmethod(msgspec.json.Encoder().encode)
    rest = b""

    def data_received(self, data: bytes) -> None:
        *frames, self.rest = (self.rest + data).split(b"\0")
        replies = []
        for frame in frames:
            asked = self.decode(frame).parameters
            key = Key(asked.inode, asked.offset, asked.sectors, False, (Pointer(0, asked.offset, 1),))
            replies.append(self.encode(Reply(Keys((key,)))))
        if replies:
            replies.append(b"")
            self.transport.write(b"\0".join(replies))


async def serve(path: str, protocol: type[Echo]) -> None:
    server = await asyncio.get_running_loop().create_unix_server(protocol, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], {"echo": Echo, "codec": Codec}[sys.argv[2]]))
