# SPDX-License-Identifier: GPL-2.0-only
"""One member of an open set: its device, its superblock and its buckets."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.format.superblock import Superblock
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.store.prio_chain import write_chain
from bcached.store.superblock_slot import write_superblock

SEQ_MASK = (1 << 64) - 1  # both only count writes, and may wrap


def geometry_of(superblock: Superblock) -> Geometry:
    """Returns the layout that a superblock describes."""
    return Geometry(
        bucket_count=superblock.bucket_count,
        first_bucket=superblock.first_bucket,
        bucket_sectors=superblock.bucket_sectors,
        block_sectors=superblock.block_sectors,
        journal_bucket_count=len(superblock.journal_buckets),
    )


@dataclass(slots=True, eq=False)
class Member:
    """Everything of one device of the set; device is its number, nr_this_dev."""

    device: int
    block_device: BlockDevice
    superblock: Superblock  # as it is on the device
    buckets: MemberBuckets  # its buckets
    prio_seq: int = 0  # of the prio chain written last
    written_bytes: Counter[str] = field(default_factory=Counter)  # since the start, by what was written

    @property
    def path(self) -> str:
        """The device's path."""
        return self.block_device.path

    @property
    def uuid(self) -> str:
        """The device's own uuid."""
        return str(self.superblock.uuid)

    async def write_prios(self, gens: bytearray) -> None:
        """Write the prio chain to the buckets reserved for it; durable with the next journal entry."""
        self.prio_seq = (self.prio_seq + 1) & SEQ_MASK
        await write_chain(
            self.block_device,
            self.buckets.geometry,
            self.superblock.set_magic,
            self.prio_seq,
            self.buckets.prio_chains.writing,
            self.buckets.table.prios_array,
            np.frombuffer(gens, np.uint8),
        )
        geometry = self.buckets.geometry
        self.written_bytes["prios"] += geometry.prio_bucket_count * geometry.metadata_bytes

    async def change_superblock(self, **fields: object) -> None:
        """Write a superblock with changed fields, which becomes the member's."""
        seq = (self.superblock.seq + 1) & SEQ_MASK
        changed = replace(self.superblock, seq=seq, **fields)  # type: ignore[arg-type]
        await write_superblock(self.block_device, changed)
        self.superblock = changed
