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
        self._words = [one.words for one in self._maps.values()]
        self._last = self._present()

    def now(self) -> Instant:
        """Returns the present instant: take it when you get a key, to check the key later."""
        if not self._is_present(last := self._last):
            last = self._last = self._present()
        return last[1]

    def map_of(self, device: int) -> tuple[GenMap, int]:
        """Returns a member's map, and the index of the member in an instant's gc_epochs."""
        return self._maps[device], list(self._maps).index(device)

    def current(self, key: Key, since: Instant) -> tuple[Pointer, ...]:
        """Returns those of the key's pointers that are valid now, if the key was valid then.

        The connection must be open as well, which the caller checks.
        """
        # Gens before header: a gen read after the run ended proves nothing.
        pointers = key.pointers
        if len(pointers) == 1:
            good: tuple[Pointer, ...] = pointers if self._has_its_gen(pointers[0]) else ()
        else:
            good = tuple([pointer for pointer in pointers if self._has_its_gen(pointer)])
        return good if good and self._may_judge(since) else ()

    def _has_its_gen(self, pointer: Pointer) -> bool:
        gens, count, bucket_sectors = self._gens.get(pointer.device, _NO_GENS)
        bucket = pointer.sector // bucket_sectors
        return bucket < count and gens[bucket] == pointer.gen

    def _may_judge(self, since: Instant) -> bool:
        """Whether equal gens prove validity: the run is the same, and no gen can have wrapped around."""
        if not since.life:
            return False
        if since is (last := self._last)[1] and self._is_present(last):
            return True
        for one, gc_epoch in zip(self._maps.values(), since.gc_epochs, strict=True):
            if one.life != since.life or one.gc_epoch - gc_epoch > GC_EPOCHS_MAX:
                return False
        return True

    def _present(self) -> tuple[Sequence[tuple[int, int]], Instant]:
        """Returns the words of the headers as the machine reads them, and the instant that they tell."""
        words = [(one[LIFE_WORD], one[GC_EPOCH_WORD]) for one in self._words]
        lives = {life for life, _ in words}
        life = native(lives.pop()) if len(lives) == 1 else 0
        return words, Instant(life, tuple([native(gc_epoch) for _, gc_epoch in words]))

    def _is_present(self, last: tuple[Sequence[tuple[int, int]], Instant]) -> bool:
        """Whether the headers are as they were then."""
        if len(self._words) == 1:  # as of most sets: each look-up and each check of a key ask
            ((life, gc_epoch),) = last[0]
            (one,) = self._words
            return bool(one[LIFE_WORD] == life and one[GC_EPOCH_WORD] == gc_epoch)
        for one, (life, gc_epoch) in zip(self._words, last[0], strict=True):
            if one[LIFE_WORD] != life or one[GC_EPOCH_WORD] != gc_epoch:
                return False
        return True


def _map(file: GenMapFile, bucket_count: int) -> GenMap:
    gen_map = GenMap.parse(map_file(file.path, file.bytes, "the gens"), file.path)
    if gen_map.bucket_count != bucket_count:
        raise BadField("gen map", f"{file.path} bucket_count", bucket_count, gen_map.bucket_count)
    return gen_map
