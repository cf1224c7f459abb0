# SPDX-License-Identifier: MIT
"""Keep a file in a volume, and read it again: `python blocking_client.py SOCKET INODE FILE`."""

import sys
from pathlib import Path

from bcached.client import BlockingClient
from bcached.errors import ConnectionLost, RequestError

SECTOR = 512


def main(path: str, inode: int, file: str) -> None:
    """Store the file at the volume's beginning, padded to whole blocks; fetch what is there, and compare."""
    data = Path(file).read_bytes()
    with BlockingClient(path, patience_s=10) as client:  # waits so long for a daemon that restarts
        block = client.description.devices[0].block_sectors * SECTOR
        padded = data.ljust(-(-len(data) // block) * block, b"\0")
        client.store(inode, 0, padded)  # reserved, written to the device, committed; durable from here on
        found = client.fetch(inode, 0, len(padded) // SECTOR)  # looked up, read, gens checked after the read
        # What is kept may be dropped at any time unless it is dirty: a gap is a miss, and not an error.
        hits = sum(len(piece.data) for piece in found)
        same = all(padded[piece.offset * SECTOR :].startswith(piece.data) for piece in found)
        print(f"{hits} of {len(padded)} bytes found, {'the same' if same else 'different'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except (ConnectionLost, RequestError) as error:
        sys.exit(str(error))
