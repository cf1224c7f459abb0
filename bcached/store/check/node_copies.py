# SPDX-License-Identifier: GPL-2.0-only
"""A sector of the index where the next journal entry would be: a misdirected write, maybe over the newest.

In the first lap of the ring, keys there may be the rest of an entry whose write a power cut interrupted, if
the next life wrote a shorter one over its beginning (reading/next_place.py). These keys are in no node. So a
node of the index with the same sector shows that it was written to a wrong place.
"""

from collections.abc import Sequence

from bcached.errors import BcachedError
from bcached.store.btree.node_reader import NodeFound
from bcached.store.journal.reader import End, JournalEnd, JournalFound
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES


class NodeCopies:
    """Sees all nodes of a set while they are read, and looks for the sector in them."""

    def __init__(self, members: Sequence[MemberFound], journal: JournalFound) -> None:
        self._members = members
        self._keys = journal.end.keys if journal.end == JournalEnd() else None
        self._found = ""

    async def see(self, node: NodeFound) -> None:
        """Compare a node's sectors, if there are keys to compare them with."""
        if self._keys is None or self._found:
            return
        pointer = node.key.pointers[0]
        begin, length = pointer.sector * SECTOR_BYTES, node.key.sectors * SECTOR_BYTES
        try:
            raw = bytes(await self._members[pointer.device].block_device.read(begin, length))
        except BcachedError:
            return
        for byte in range(0, length, SECTOR_BYTES) if self._keys.raw in raw else ():
            if raw[byte : byte + SECTOR_BYTES] == self._keys.raw:
                self._found = f"{node.where}, sector {byte // SECTOR_BYTES}"

    def end(self) -> JournalEnd | None:
        """Returns an end that is suspect by what was found; None without that."""
        if self._keys is None or not self._found:
            return None
        why = f"what is there is in the index, too: {self._found}"
        return JournalEnd(End.SUSPECT, self._keys.where, why, keys=self._keys)
