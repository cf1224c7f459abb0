# SPDX-License-Identifier: MIT
"""The gens of all members, mapped read-only: checks whether a key is valid without a request."""

from collections.abc import Sequence
from typing import NamedTuple

from bcached.client.mapped_file import map_file
from bcached.errors import BadField
from bcached.keys import Key, Pointer
from bcached.wire.gen_map import GenMap
from bcached.wire.messages import Device, GenMapFile

GC_EPOCHS_MAX = 1  # gens have 8 bits: after a second collection one may have wrapped around


class Instant(NamedTuple):
    """An instant by the maps' counters: the id of the daemon's run and each member's gc_epoch."""

    life: int
    gc_epochs: tuple[int, ...]


class Gens:
    """The mapped gens of a set's members. A mapping stays while it is referenced."""

    def __init__(self, files: Sequence[GenMapFile], devices: Sequence[Device]) -> None:
        self._bucket_sectors = {device.device: device.bucket_sectors for device in devices}
        counts = {device.device: device.bucket_count for device in devices}
        self._maps = {file.device: _map(file, counts[file.device]) for file in files}

    def now(self) -> Instant:
        """Returns the present instant: take it when you get a key, to check the key later."""
        return Instant(self._life(), tuple(one.gc_epoch for one in self._maps.values()))

    def map_of(self, device: int) -> tuple[GenMap, int]:
        """Returns a member's map, and the index of the member in an instant's gc_epochs."""
        return self._maps[device], list(self._maps).index(device)

    def current(self, key: Key, since: Instant) -> tuple[Pointer, ...]:
        """Returns those of the key's pointers that are valid now, if the key was valid then.

        The connection must be open as well, which the caller checks.
        """
        # Gens before header: a gen read after the run ended proves nothing.
        good = tuple([pointer for pointer in key.pointers if self._gen(pointer) == pointer.gen])
        return good if good and self._may_judge(since) else ()

    def _may_judge(self, since: Instant) -> bool:
        """Whether equal gens prove validity: the run is the same, and no gen can have wrapped around."""
        if not since.life:
            return False
        for one, gc_epoch in zip(self._maps.values(), since.gc_epochs, strict=True):
            if one.life != since.life or one.gc_epoch - gc_epoch > GC_EPOCHS_MAX:
                return False
        return True

    def _life(self) -> int:
        lives = {one.life for one in self._maps.values()}
        return lives.pop() if len(lives) == 1 else 0

    def _gen(self, pointer: Pointer) -> int | None:
        gen_map = self._maps.get(pointer.device)
        bucket = pointer.sector // self._bucket_sectors[pointer.device] if gen_map else 0
        return gen_map.gens[bucket] if gen_map and bucket < gen_map.bucket_count else None


def _map(file: GenMapFile, bucket_count: int) -> GenMap:
    gen_map = GenMap.parse(map_file(file.path, file.bytes, "the gens"), file.path)
    if gen_map.bucket_count != bucket_count:
        raise BadField("gen map", f"{file.path} bucket_count", bucket_count, gen_map.bucket_count)
    return gen_map
