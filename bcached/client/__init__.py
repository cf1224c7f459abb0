"""The library for programs that keep data on a set: reserve, write to the device, know what is still good.

    async with Client() as client:                       # or: with BlockingClient() as client:
        await client.store(inode, 0, data)               # reserve, write, commit
        for piece in await client.fetch(inode, 0, 128):  # look up, read, check
            print(piece.offset, len(piece.data))

The connection is everything: what was allocated, and what is known about gens, ends with it. While it stands
the client holds the daemon's lease, and lets it go only once the connection is gone and its last write has
returned, so a write can never land in a bucket that a later life of the daemon has given to another client.

protocol/     without a socket or a loop: calls to bytes, bytes to answers; a call for each of the socket's
              methods; plans of what takes several steps, performing none
attachment    what a connection holds; lease, gens, data_paths are parts of it
client        the asyncio client, on channel        blocking   the blocking client, on socket_channel
"""

from typing import TYPE_CHECKING

from bcached.client.blocking import BlockingClient
from bcached.client.on_demand import on_demand
from bcached.client.protocol.fetching import Piece
from bcached.errors import ClientClosed, ForkedClient

if TYPE_CHECKING:
    from bcached.client.client import Client

# asyncio takes longer to import than all the rest.
__getattr__ = on_demand(__name__, {"Client": "bcached.client.client"})

__all__ = ["BlockingClient", "Client", "ClientClosed", "ForkedClient", "Piece"]
