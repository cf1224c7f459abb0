# SPDX-License-Identifier: GPL-2.0-only
"""What was written to a device, parsed again: a node, a journal bucket, a prio chain."""

from bcached.device import BlockDevice
from bcached.errors import BadChecksum, BadMagic
from bcached.format.bset import Bset, read_bsets
from bcached.format.checksum import Buffer
from bcached.format.jset import PlacedEntry, TooLong, scan_journal_bucket
from bcached.keys import Key
from bcached.state.buckets.geometry import Geometry
from bcached.store.prio_chain import PrioChain, follow_chain


def parse_node(
    raw: Buffer, node_key: Key, set_magic: int, block_bytes: int, where: str = "node"
) -> list[Bset]:
    """The bsets of the node in raw, oldest first."""
    return [placed.bset for placed in read_bsets(raw, node_key, set_magic, block_bytes, where)]


def parse_journal_bucket(
    raw: Buffer, set_magic: int, block_bytes: int, where: str = "journal bucket"
) -> list[PlacedEntry]:
    """The entries of one journal bucket, in their order there.

    What is not an entry, or a torn one, ends the list without an error: a bucket is used again without
    being wiped. An entry that is whole and yet makes no sense is an error.
    """
    placed, end = scan_journal_bucket(raw, set_magic, block_bytes, where)
    if end is not None and not isinstance(end, BadMagic | BadChecksum | TooLong):
        raise end
    return placed


async def read_chain(device: BlockDevice, geometry: Geometry, head: int, set_magic: int) -> PrioChain:
    """The chain from its head to its exact length."""
    placed = [found async for found in follow_chain(device, geometry, head, set_magic)]
    return PrioChain.of(placed, geometry.bucket_count)
