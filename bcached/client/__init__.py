"""The library for programs that keep data on a set: reserve, write to the device, know what is still good.

    async with Client() as client:                       # or: with BlockingClient() as client:
        await client.store(inode, 0, data)               # reserve, write, commit
        for piece in await client.fetch(inode, 0, 128):  # look up, read, check
            print(piece.offset, len(piece.data))

The connection is everything: what was allocated, and what is known about gens, ends with it. While it stands
the client holds the daemon's lease, and lets it go only once the connection is gone and its last write has
returned, so a write can never land in a bucket that a later life of the daemon has given to somebody else.
"""

from bcached.client.blocking import BlockingClient
from bcached.client.client import Client, Piece

__all__ = ["BlockingClient", "Client", "Piece"]
