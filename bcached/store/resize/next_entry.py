# SPDX-License-Identifier: GPL-2.0-only
"""One more journal entry for a set that is not open: the moment at which new metadata becomes valid."""

from bcached.device.run_all import run_all
from bcached.errors import SetRefused
from bcached.format.jset import JournalEntry
from bcached.store.check.checker import CheckedSet
from bcached.store.journal.ring import JournalRing
from bcached.store.journal.rings import Rings
from bcached.store.member import geometry_of


async def append_entry(checked: CheckedSet, entry: JournalEntry) -> None:
    """Flush all members, then write the entry to each, durably. Raises SetRefused if a journal is full."""
    assert checked.journal is not None
    rings = []
    for member, found in zip(checked.members, checked.journal.rings, strict=True):
        ring = JournalRing(geometry_of(member.superblock), member.superblock.journal_buckets)
        ring.resume(found.newest_seqs, found.index, found.behind_byte)
        rings.append(ring)
    joined = Rings(rings, checked.journal.newest.last_seq)
    first = checked.members[0].superblock
    raw = entry.pack(first.set_magic, first.block_bytes)
    offsets = []
    for member, offset in zip(checked.members, joined.advance(len(raw), entry.seq), strict=True):
        if offset is None:
            raise SetRefused(
                f"{member.path}: no journal bucket is free for entry {entry.seq}: start the daemon on the "
                "set once, or let the kernel register it, and stop it again"
            )
        offsets.append(offset)
    await run_all(member.block_device.flush for member in checked.members)
    for number in joined.furthest_behind_first() or range(len(offsets)):
        await checked.members[number].block_device.write(offsets[number], raw, durable=True)
