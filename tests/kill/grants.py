# SPDX-License-Identifier: GPL-2.0-only
"""Which sectors were given out in a life: none twice under one gen, and no bucket's gen ever goes back.

What a client was given and had not committed when the daemon died is nobody's any more, and may be given out
again under the same gen. So a life begins with what the index holds.
"""

from collections.abc import Iterable

from bcached.keys import Key

from .ledger import LostError

HALF_WAY = 128  # gens are compared modulo 256


class Grants:
    """Of every bucket the newest gen seen, and the sectors given out under it."""

    def __init__(self, bucket_sectors: int) -> None:
        self.bucket_sectors = bucket_sectors
        self.moves = 0  # gens seen to have grown
        self._gens: dict[tuple[int, int], int] = {}
        self._given: dict[tuple[int, int], int] = {}
        self._disk: dict[int, bytes] = {}

    def begin_life(self) -> None:
        """All that counts now are the gens on the devices, and keys that are found."""
        self._gens = {
            (device, bucket): gen for device, gens in self._disk.items() for bucket, gen in enumerate(gens)
        }
        self._given.clear()

    def give(self, key: Key) -> None:
        """A client was given these sectors."""
        for place, gen, mask in self._parts(key):
            self.see_gen(place, gen)
            given = self._given.get(place, 0)
            if given & mask:
                raise LostError(f"given out twice: {key}, sectors {given & mask:b} of bucket {place}")
            self._given[place] = given | mask

    def see(self, key: Key) -> None:
        """A key was found in the index: its sectors are not to be given out."""
        for place, gen, mask in self._parts(key):
            self.see_gen(place, gen)
            self._given[place] = self._given.get(place, 0) | mask

    def take_back(self, keys: Iterable[Key]) -> None:
        """A client gave these back unused."""
        for key in keys:
            for place, gen, mask in self._parts(key):
                if self._gens.get(place) == gen:
                    self._given[place] &= ~mask

    def see_gen(self, place: tuple[int, int], gen: int) -> None:
        """A bucket was seen with this gen."""
        before = self._gens.get(place, gen)
        if (grown := (gen - before) % 256) >= HALF_WAY:
            raise LostError(f"the gen of bucket {place} went back from {before} to {gen}")
        if grown:
            self._given.pop(place, None)
            self.moves += grown
        self._gens[place] = gen

    def see_disk(self, device: int, gens: Iterable[int]) -> None:
        """The gens on a member: none is behind what it was."""
        gens = bytes(gens)
        before = self._disk.get(device, gens)
        for bucket, (old, gen) in enumerate(zip(before, gens, strict=True)):
            if (gen - old) % 256 >= HALF_WAY:
                raise LostError(f"the gen of bucket {device}:{bucket} went back on disk from {old} to {gen}")
        self._disk[device] = gens

    def _parts(self, key: Key) -> Iterable[tuple[tuple[int, int], int, int]]:
        for pointer in key.pointers:
            bucket, first = divmod(pointer.sector, self.bucket_sectors)
            if first + key.sectors > self.bucket_sectors:
                raise LostError(f"a key beyond its bucket: {key}")
            yield (pointer.device, bucket), pointer.gen, ((1 << key.sectors) - 1) << first
