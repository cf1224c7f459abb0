# SPDX-License-Identifier: MIT
"""The library for programs that keep data on a set: reserve, write to the device, check validity.

    async with Client() as client:                       # or: with BlockingClient() as client:
        await client.store(inode, 0, data)               # reserve, write, commit
        for piece in await client.fetch(inode, 0, 128):  # look up, read, check
            print(piece.offset, len(piece.data))

Reservations, and what is known about gens, end with the connection. While it is open the client holds the
daemon's lease, and releases it only once the connection is closed and its last write has returned, so a write
can never reach a bucket that a later run of the daemon has allocated to another client.

protocol/     without a socket or a loop: calls to bytes, bytes to replies; a call for each of the socket's
              methods; plans of operations with several steps, without performing them
data/         reads and writes at the sectors of a key
cache/        objects by name, on a blocking connection; blocking and for asyncio
attachment    the state of a connection; lease, gens and data_paths are parts of it
client        the asyncio client, on channel        blocking   the blocking client, on socket_channel
arguments     what callers may pass             request_check in protocol/: the fields of requests
hang_up_watch the end of connections that are not in use
method_face   what help() shows of the clients' methods
"""

from typing import TYPE_CHECKING

from bcached.client.blocking import BlockingClient
from bcached.client.on_demand import listing, on_demand
from bcached.client.protocol.fetching import Piece
from bcached.errors import ClientClosed, ForkedClient
from bcached.wire.volume_messages import VolumeOwner

if TYPE_CHECKING:
    from bcached.client.cache.async_cache import AsyncCache
    from bcached.client.cache.cache import Cache
    from bcached.client.client import Client

# On demand: asyncio takes longer to import than all the rest, and the caches need fastcrc.
__getattr__ = on_demand(
    __name__,
    {
        "AsyncCache": "bcached.client.cache.async_cache",
        "Cache": "bcached.client.cache.cache",
        "Client": "bcached.client.client",
    },
)

__all__ = [
    "AsyncCache",
    "BlockingClient",
    "Cache",
    "Client",
    "ClientClosed",
    "ForkedClient",
    "Piece",
    "VolumeOwner",
]

__dir__ = listing(globals(), __all__)
