# SPDX-License-Identifier: MIT
"""The gens of all members, mapped read-only: checks whether a key is valid without a request."""

from collections.abc import Sequence
from typing import NamedTuple

from bcached.client.mapped_file import map_file
from bcached.errors import BadField
from bcached.keys import Key, Pointer
from bcached.wire.gen_map import GC_EPOCH_WORD, LIFE_WORD, GenMap, native
from bcached.wire.messages import Device, GenMapFile

_NO_GENS = (memoryview(b""), 0, 1)
GC_EPOCHS_MAX = 1  # gens have 8 bits: after a second collection one may have wrapped around


class Instant(NamedTuple):
    """An instant by the maps' counters: the id of the daemon's run and each member's gc_epoch."""

    life: int
    gc_epochs: tuple[int, ...]


class Gens:
    """The mapped gens of a set's members. A mapping stays while it is referenced."""

    def __init__(self, files: Sequence[GenMapFile], devices: Sequence[Device]) -> None:
        counts = {device.device: device.bucket_count for device in devices}
        sectors = {device.device: device.bucket_sectors for device in devices}
        self._maps = {file.device: _map(file, counts[file.device]) for file in files}
        # By device: its gens, how many of them, and the sectors of a bucket.
        self._gens = {
            device: (one.gens, one.bucket_count, sectors[device]) for device, one in self._maps.items()
        }
        # Of each header the words that make an instant, as the machine reads them.
        self._heads = tuple([one.words[LIFE_WORD : GC_EPOCH_WORD + 1] for one in self._maps.values()])
        self._last = self._present()

    def now(self) -> Instant:
        """Returns the present instant: take it when you get a key, to check the key later."""
        last = self._last
        if self._heads != last[0]:
            last = self._last = self._present()
        return last[1]

    def map_of(self, device: int) -> tuple[GenMap, int]:
        """Returns a member's map, and the index of the member in an instant's gc_epochs."""
        return self._maps[device], list(self._maps).index(device)

    def holds(self, pointer: Pointer, since: Instant) -> bool:
        """Whether a pointer is valid now, if it was valid then. The caller checks the connection."""
        return self._has_its_gen(pointer) and self._may_judge(since)

    def current(self, key: Key, since: Instant) -> tuple[Pointer, ...]:
        """Returns those of the key's pointers that are valid now, if the key was valid then.

        The connection must be open as well, which the caller checks.
        """
        # Gens before header: a gen read after the run ended proves nothing.
        good = tuple(filter(self._has_its_gen, key.pointers))
        return good if good and self._may_judge(since) else ()

    def _has_its_gen(self, pointer: Pointer) -> bool:
        gens, count, bucket_sectors = self._gens.get(pointer.device, _NO_GENS)
        bucket = pointer.sector // bucket_sectors
        return bucket < count and gens[bucket] == pointer.gen

    def _may_judge(self, since: Instant) -> bool:
        """Whether equal gens prove validity: the run is the same, and no gen can have wrapped around."""
        if not since.life:
            return False
        last = self._last
        if since is last[1] and self._heads == last[0]:
            return True
        for one, gc_epoch in zip(self._maps.values(), since.gc_epochs, strict=True):
            if one.life != since.life or one.gc_epoch - gc_epoch > GC_EPOCHS_MAX:
                return False
        return True

    def _present(self) -> tuple[tuple[memoryview, ...], Instant]:
        """Returns a copy of the headers' words, to compare them with, and the instant that they tell."""
        words = tuple([memoryview(one.tobytes()).cast("Q") for one in self._heads])
        lives = {one[0] for one in words}
        life = native(lives.pop()) if len(lives) == 1 else 0
        return words, Instant(life, tuple([native(one[-1]) for one in words]))


def _map(file: GenMapFile, bucket_count: int) -> GenMap:
    gen_map = GenMap.parse(map_file(file.path, file.bytes, "the gens"), file.path)
    if gen_map.bucket_count != bucket_count:
        raise BadField("gen map", f"{file.path} bucket_count", bucket_count, gen_map.bucket_count)
    return gen_map
