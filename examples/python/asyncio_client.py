# SPDX-License-Identifier: MIT
"""Keep files in a volume and read them again: `python asyncio_client.py SOCKET INODE FILE...`."""

import asyncio
import sys
from pathlib import Path

from bcached.client import Client
from bcached.errors import ConnectionLost, RequestError

SLOT = 1 << 17  # sectors between two files: 64 MiB, so a file may have that


async def main(path: str, inode: int, files: list[str]) -> None:
    """Store each file in a slot of its own, fetch all of them, and compare."""
    async with Client(path, patience_s=10) as client:  # waits so long for a daemon that restarts
        block = client.description.devices[0].block_sectors * 512
        contents = [await asyncio.to_thread(Path(file).read_bytes) for file in files]
        padded = [data.ljust(-(-len(data) // block) * block, b"\0") for data in contents]
        # Two round trips for all files; durable, and visible to other clients, from here on.
        await client.store_many([(inode, SLOT * number, data) for number, data in enumerate(padded)])
        ranges = [(inode, SLOT * number, len(data) // 512) for number, data in enumerate(padded)]
        found = await client.fetch_many(ranges)  # one round trip; gens checked after the reads
        for file, data, pieces in zip(files, padded, found, strict=True):
            same = b"".join(piece.data for piece in pieces) == data  # else evicted: a miss, and not an error
            print(f"{file}: {'the same' if same else 'not there'}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
    except (ConnectionLost, RequestError) as error:
        sys.exit(str(error))
