# SPDX-License-Identifier: MIT
"""Finds what other processes have stored without a request: its place is in the mapped file of changes.

As in recall.py, an object is read and *then* checked, in the order told there; what is not certain is left to
the caller, who looks it up.
"""

import os
from collections.abc import Callable, Mapping, Sized

from bcached.client.cache.finding.known_object import KnownObject, Members
from bcached.client.cache.finding.positions import Positions
from bcached.client.cache.finding.read_reports import Hits
from bcached.client.cache.finding.recall import Read, UnderWay
from bcached.client.cache.values.names import offset_of
from bcached.client.cache.values.object_format import StoredObject, decoded
from bcached.client.data.scattered_reads import LONG_BYTES
from bcached.client.gens import GC_EPOCHS_MAX, Gens
from bcached.keys import Key
from bcached.units import SECTOR_BYTES
from bcached.wire.change_map import ChangeMap
from bcached.wire.gen_map import GC_EPOCH_WORD, LIFE_WORD
from bcached.wire.place_map import INODE_FACTOR, LOW_32, PLACE_BYTES, PlaceMap

LONG_SECTORS = LONG_BYTES // SECTOR_BYTES


class PlacedObjects:
    """The objects of one volume that are found by their places. Thread-safe, as Recall is.

    It has what a session's parts share, so as not to ask for it in each read.
    """

    def __init__(
        self,
        inode: int,
        changes: ChangeMap,
        gens: Gens,
        members: Members,
        positions: Positions,
        under_way: Mapping[int, UnderWay],
        refused: Sized,
        hang_ups: Callable[[float], object],
        hits: Hits,
    ) -> None:
        self._inode = inode
        self._first = inode * INODE_FACTOR  # of h, for region 0
        self._changes = changes
        self._counters, self._mask, self._shift = changes.counters, changes.mask, changes.shift
        self._places = changes.places or PlaceMap(memoryview(bytes(PLACE_BYTES)))  # without any
        self._gens = gens
        self._members = members
        self._positions = positions
        self._under_way = under_way
        self._refused = refused
        self._hang_ups = hang_ups
        self._hits = hits

    def find(self, name: bytes, read: Read = os.pread) -> StoredObject | None:
        """Returns the newest object of this name, also an expired one; None if no place tells it for certain.

        read: as of Recall.known.
        """
        position = self._positions.get(name)
        if position is None:
            return self.at(name, offset_of(name), read)
        if position.keys:
            return self.at(name, position.keys[0].offset, read)
        offset = offset_of(name)
        is_known_miss = self._changes.counter(self._inode, offset) == position.version
        return None if is_known_miss else self.at(name, offset, read)

    def at(self, name: bytes, offset: int, read: Read = os.pread) -> StoredObject | None:
        """Returns what find does, for the slot at this offset."""
        region = offset >> self._shift
        index = self._first + region
        counter = index & self._mask
        placed = self._places.get(index, self._inode, region)
        if (
            placed is None
            or (version := placed.version) != self._counters[counter]
            or (sectors := placed.sectors) > LONG_SECTORS
            # Ours may be newer. It is refused before it is no longer under way, so that is asked last.
            or (
                (own := self._under_way.get(offset)) is not None and own.keys[0].pointers != (placed.pointer,)
            )
            or self._refused
        ):
            return None
        now, pointer = self._gens.now(), placed.pointer
        member = self._members[pointer.device]
        if not now.life or now.gc_epochs[member.number] - placed.gc_epoch & LOW_32 > GC_EPOCHS_MAX:
            return None
        try:
            data = read(member.path.descriptor, sectors * SECTOR_BYTES, pointer.sector * SECTOR_BYTES)
            found = decoded(data, name)
            if found is None:
                return None
            keys = (Key(self._inode, offset, sectors, False, (pointer,)),)
            one = KnownObject(version, keys, now, found.seal, self._members, counter)
            if (
                member.gens[one.bucket] != one.gen
                or member.words[LIFE_WORD] != one.life
                or member.words[GC_EPOCH_WORD] != one.gc_epoch
                or self._hang_ups(0)
                or self._counters[counter] != version
            ):
                return None
        except (OSError, ValueError):  # ValueError: the connection is closed
            return None
        self._positions.put(name, one)
        self._hits.hit(pointer, len(found.value))
        return found
