# SPDX-License-Identifier: GPL-2.0-only
"""A large set with many keys on a sparse image, written structure by structure: only metadata takes space.

    python -m bench.sparse_set IMAGE [--keys N] [--buckets N]

Keys are in order in the volume and at random on the device, as after a long life: one bucket holds keys of
leaves far apart. Half are dirty. Each leaf has one large bset, and a few of one block behind it that
overwrite some of its keys.
"""

import os
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from bcached.format.bkey import END_MAX, HIGH_BIT, KEY_DIRTY, KEY_PTRS, KEY_SIZE, PTR_GEN, PTR_OFFSET
from bcached.format.bset import Bset, pack_bset, pack_words
from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.format.sizes import MEMBERS_MAX, node_sectors
from bcached.format.superblock import (
    COPY_SECTOR,
    SUPERBLOCK_SECTOR,
    VERSION_IN_USE,
    Superblock,
    first_bucket_for,
    journal_bucket_count_for,
)
from bcached.format.uuid_entry import UuidEntry, pack_table
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.store.member import geometry_of
from bcached.units import SECTOR_BYTES

BUCKET_SECTORS, BLOCK_SECTORS = 1024, 8
BUCKETS, KEYS = 1 << 21, 10_000_000
LEAF_KEYS, APPENDED, APPENDED_KEYS = (
    4000,
    3,
    160,
)  # of a leaf: all in its first bset; bsets behind it, of these
DATA_GEN, SEQ = 1, 1
VOLUME = UuidEntry(UUID(int=0xBACC), "sparse")
Words = NDArray[np.uint64]


@dataclass(slots=True)
class SparseSet:
    """A set on an image that is being written."""

    image: Path
    bucket_count: int
    key_count: int
    _used: int = 0  # buckets, from the first one on

    @property
    def superblock(self) -> Superblock:
        """The superblock of a set in use."""
        first, journal = first_bucket_for(BUCKET_SECTORS), journal_bucket_count_for(self.bucket_count)
        return Superblock(
            uuid=UUID(int=0xDEC1),
            set_uuid=UUID(int=0x5E7),
            version=VERSION_IN_USE,
            bucket_count=self.bucket_count,
            bucket_sectors=BUCKET_SECTORS,
            block_sectors=BLOCK_SECTORS,
            first_bucket=first,
            journal_buckets=tuple(range(first, first + journal)),
            synchronous=True,
            seq=1,
        )

    def write(self) -> None:
        """Write all of it, the superblock last."""
        superblock = self.superblock
        geometry = geometry_of(superblock)
        self._used = superblock.journal_buckets[-1] + 1
        with self.image.open("wb") as file:
            file.truncate(self.bucket_count * BUCKET_SECTORS * SECTOR_BYTES)
            leaves = self._write_leaves(file.fileno())
            root = self._write_node(file.fileno(), (INODE_MAX, END_MAX), tuple(leaves))
            uuids = self._take()
            table = pack_table([VOLUME], geometry.metadata_bytes)
            os.pwrite(file.fileno(), table, geometry.byte_of(uuids))
            prios = [self._take() for _ in range(geometry.prio_bucket_count)]
            self._write_prios(file.fileno(), prios)
            self._write_entry(file.fileno(), root, uuids, prios[0])
            for sector in (COPY_SECTOR, SUPERBLOCK_SECTOR):
                os.pwrite(file.fileno(), superblock.pack(), sector * SECTOR_BYTES)

    def _take(self) -> int:
        self._used += 1
        return self._used - 1

    def _write_leaves(self, file: int) -> Iterator[Key]:
        """Yields the leaves' keys. Data is behind all metadata."""
        columns = self._columns()
        for first in range(0, self.key_count, LEAF_KEYS):
            leaf = columns[first : first + LEAF_KEYS]
            is_last = first + LEAF_KEYS >= self.key_count
            end = (INODE_MAX, END_MAX) if is_last else (0, int(leaf[-1, 1]))
            bsets = [leaf, *(leaf[n :: APPENDED + 1][:APPENDED_KEYS] for n in range(APPENDED))]
            yield self._write_leaf(file, end, bsets)

    def _columns(self) -> Words:
        """Returns the keys' words, a row each: head, end, pointer."""
        data = self.bucket_count - self._first_data_bucket
        in_bucket = -(-self.key_count // data)
        sectors = BUCKET_SECTORS // in_bucket // BLOCK_SECTORS * BLOCK_SECTORS
        assert sectors, "too many keys for these buckets"
        rng = np.random.default_rng(1)
        numbers = np.arange(self.key_count, dtype=np.int64)
        places = rng.permutation(data * in_bucket)[: self.key_count]
        buckets, slots = np.divmod(places, in_bucket)
        head = HIGH_BIT.put(KEY_PTRS.put(KEY_SIZE.put(0, sectors), 1), 1)
        columns = np.empty((self.key_count, 3), np.uint64)
        columns[:, 0] = head
        columns[:, 0] |= KEY_DIRTY.to_column(rng.integers(0, 2, self.key_count))
        columns[:, 1] = numbers * (sectors + BLOCK_SECTORS) + sectors
        columns[:, 2] = PTR_OFFSET.to_column(
            (self._first_data_bucket + buckets) * BUCKET_SECTORS + slots * sectors
        )
        columns[:, 2] |= np.uint64(PTR_GEN.put(0, DATA_GEN))
        return columns

    @property
    def _first_data_bucket(self) -> int:
        geometry = geometry_of(self.superblock)
        nodes = -(-self.key_count // LEAF_KEYS) + 1
        return geometry.journal_buckets.stop + nodes + 1 + geometry.prio_bucket_count

    @property
    def first_prio_byte(self) -> int:
        """Where the prios begin."""
        geometry = geometry_of(self.superblock)
        return geometry.byte_of(self._first_data_bucket - geometry.prio_bucket_count)

    def _node_key(self, end: tuple[int, int]) -> Key:
        sectors = node_sectors(BUCKET_SECTORS)
        return Key(end[0], end[1] - sectors, sectors, False, (Pointer(0, self._take() * BUCKET_SECTORS, 0),))

    def _write_leaf(self, file: int, end: tuple[int, int], bsets: list[Words]) -> Key:
        key, magic = self._node_key(end), self.superblock.set_magic
        block = BLOCK_SECTORS * SECTOR_BYTES
        raw = b"".join(pack_words(SEQ, bset.tobytes(), key, magic, block) for bset in bsets)
        assert len(raw) <= key.sectors * SECTOR_BYTES
        os.pwrite(file, raw, key.pointers[0].sector * SECTOR_BYTES)
        return key

    def _write_node(self, file: int, end: tuple[int, int], keys: tuple[Key, ...]) -> Key:
        key = self._node_key(end)
        raw = pack_bset(Bset(SEQ, keys), key, self.superblock.set_magic, BLOCK_SECTORS * SECTOR_BYTES)
        assert len(raw) <= key.sectors * SECTOR_BYTES, "the root is full: take fewer keys"
        os.pwrite(file, raw, key.pointers[0].sector * SECTOR_BYTES)
        return key

    def _write_prios(self, file: int, buckets: list[int]) -> None:
        geometry = geometry_of(self.superblock)
        gens = np.zeros(self.bucket_count, np.uint8)
        gens[self._first_data_bucket :] = DATA_GEN
        step = geometry.prios_per_bucket
        for number, (bucket, following) in enumerate(zip(buckets, [*buckets[1:], 0], strict=True)):
            some = gens[number * step : (number + 1) * step]
            prio_set = PrioSet(SEQ, following, np.full(len(some), INITIAL_PRIO, np.uint16), some)
            raw = prio_set.pack(self.superblock.set_magic, geometry.metadata_bytes)
            os.pwrite(file, raw, geometry.byte_of(bucket))

    def _write_entry(self, file: int, root: Key, uuids: int, prios: int) -> None:
        geometry = geometry_of(self.superblock)
        sectors = geometry.metadata_bytes // SECTOR_BYTES
        table = Key(0, -sectors, sectors, False, (Pointer(0, geometry.sector_of(uuids), 0),))
        heads = (prios, *[0] * (MEMBERS_MAX - 1))
        raw = JournalEntry(SEQ, SEQ, table, root, 1, heads).pack(
            self.superblock.set_magic, geometry.block_bytes
        )
        os.pwrite(file, raw, geometry.byte_of(geometry.journal_buckets[0]))


def main() -> None:
    parser = ArgumentParser(prog="python -m bench.sparse_set")
    parser.add_argument("image", type=Path)
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--buckets", type=int, default=BUCKETS)
    asked = parser.parse_args()
    SparseSet(asked.image, asked.buckets, asked.keys).write()


if __name__ == "__main__":
    main()
