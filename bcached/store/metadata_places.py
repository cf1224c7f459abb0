"""Whether the uuid table and the root can be where the newest journal entry says they are.

Each must lie in a bucket of its own, and its pointer must not be behind the gen on the device: such a
pointer is stale, and what it names may have been given to somebody else long ago.
"""

from collections.abc import Sequence

from bcached.errors import BadField
from bcached.format import bkey
from bcached.format.jset import JournalEntry
from bcached.format.superblock import Superblock
from bcached.keys import Key, Pointer
from bcached.state.geometry import GEN_DISTANCE_MAX
from bcached.store.prio_chain import PrioChain

STRUCTURE = "node key"


def check_places(superblocks: Sequence[Superblock], newest: JournalEntry, where: str) -> None:
    """Refuse places that no bucket is at, or where something else is known to be."""
    bounds = bkey.Bounds(
        bucket_sectors=superblocks[0].bucket_sectors,
        first_bucket=max(superblock.first_bucket for superblock in superblocks),
        bucket_counts=tuple(superblock.bucket_count for superblock in superblocks),
    )
    used: set[tuple[int, int]] = set()
    for name, key in _named(newest):
        here = f"{where}, {name}"
        bkey.check_node_key(key, bounds, here)
        if len(key.pointers) != 1:
            raise BadField(STRUCTURE, f"{here}, pointers", 1, len(key.pointers))
        place = _place(superblocks, key)
        if place[1] in superblocks[place[0]].journal_buckets:
            raise BadField(STRUCTURE, here, "a bucket outside of the journal", place[1])
        if place in used:
            raise BadField(STRUCTURE, here, "a bucket of its own", place[1])
        used.add(place)
    end = (newest.root.inode, newest.root.end)
    if end != (bkey.INODE_MAX, bkey.OFFSET_MAX):
        # Kernel: does not look, and fails when a key beyond it is inserted.
        expected = f"{bkey.INODE_MAX}:{bkey.OFFSET_MAX}, the end of all keys"
        raise BadField(STRUCTURE, f"{where}, btree_root, position", expected, f"{end[0]}:{end[1]}")


def check_gens(
    superblocks: Sequence[Superblock], newest: JournalEntry, chains: Sequence[PrioChain], where: str
) -> None:
    """Refuse places in a prio chain's bucket, and pointers too far from the gens on the device."""
    for name, key in _named(newest):
        device, bucket = _place(superblocks, key)
        if bucket in chains[device].buckets:
            raise BadField(STRUCTURE, f"{where}, {name}", "a bucket outside of the prio chain", bucket)
        gen_on_disk = int(chains[device].gens[bucket])
        ahead = (_pointer(key).gen - gen_on_disk) & 255
        if ahead > GEN_DISTANCE_MAX:
            expected = f"{gen_on_disk}, or up to {GEN_DISTANCE_MAX} more"
            raise BadField(STRUCTURE, f"{where}, {name}, gen", expected, _pointer(key).gen)


def _named(newest: JournalEntry) -> tuple[tuple[str, Key], tuple[str, Key]]:
    return (("uuid_bucket", newest.uuid_bucket), ("btree_root", newest.root))


def _pointer(key: Key) -> Pointer:
    return key.pointers[0]


def _place(superblocks: Sequence[Superblock], key: Key) -> tuple[int, int]:
    """(device, bucket) of a key that is known to have a pointer."""
    pointer = _pointer(key)
    return pointer.device, pointer.sector // superblocks[pointer.device].bucket_sectors
