# SPDX-License-Identifier: GPL-2.0-only
"""The images that the real kernel wrote, and what it said of them."""

import json
import lzma
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice

FOLDER = Path(__file__).parents[2] / "fixtures" / "kernel"
NAMES = ("clean", "crash", "flash", "full-lru")


@dataclass(frozen=True)
class KernelImage:
    """One image, and the kernel's view of it: before it stopped, registered again, and after a GC."""

    name: str
    worked: dict[str, Any]
    registered: dict[str, Any]
    collected: dict[str, Any]
    expected: list[tuple[int, int, int]]  # what the workload left: bytes from and for how long, whose seed
    data_offset: int  # sectors of the backing device in front of the data, which keys count too

    def device(self) -> MemoryDevice:
        """A device with the image's bytes."""
        return MemoryDevice.holding(image_bytes(self.name))

    def written(self, sector: int) -> bytes | None:
        """What the workload wrote last to a sector of the volume; None if it did not, or discarded it."""
        at = (sector - self.data_offset) * SECTOR_BYTES
        place = bisect_right(self.expected, at, key=itemgetter(0)) - 1
        offset, length, seed = self.expected[place]
        assert offset <= at < offset + length
        return pattern(at // SECTOR_BYTES, seed) if seed >= 0 else None

    def buckets(self, state: dict[str, Any], column: str) -> list[int]:
        """A column of the kernel's own memory."""
        values: list[int] = state["memory"]["buckets"][column]
        return values

    def taken_at_registration(self) -> set[int]:
        """The buckets that registering gives a new gen: those of the free lists, and of the new prios."""
        memory = self.registered["memory"]
        lists = ("free_btree", "free_prio", "free_movinggc", "free_none", "free_inc")
        return set().union(*(memory[name]["list"] for name in lists)) | set(memory["prio_buckets"])

    def uuid_bucket(self, state: dict[str, Any]) -> int:
        """Where the kernel has its uuid table."""
        memory = state["memory"]
        found = re.search(r"-> 0:(\d+) gen", memory["uuid_bucket"])
        assert found is not None
        return int(found[1]) // int(memory["bucket_size"])


def pattern(sector: int, seed: int) -> bytes:
    """A sector as the workload writes it: 32 times the sector, the seed, and a mark."""
    return (sector.to_bytes(8, "little") + seed.to_bytes(4, "little") + b"bcor") * 32


def keys_of(state: dict[str, Any]) -> list[Key]:
    """The keys the kernel calls good."""
    return [
        Key(inode, offset, sectors, bool(dirty), tuple(Pointer(*pointer) for pointer in pointers))
        for inode, offset, sectors, dirty, pointers in state["keys"]
    ]


@cache
def image_bytes(name: str) -> bytes:
    """The image, unpacked."""
    return lzma.decompress((FOLDER / f"{name}.img.xz").read_bytes())


@cache
def kernel_image(name: str) -> KernelImage:
    """The image of that name."""
    facts = json.loads(lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes()))
    made, states = facts["made"], facts["check"]["states"]
    offset = re.search(r"data\.first_sector\s+(\d+)", made["super_backing"])
    return KernelImage(
        name,
        made["states"]["2-worked"],
        states["1-registered"],
        states["3-collected"],
        [(start, length, seed) for start, length, seed in made["expected"]],
        int(offset[1]) if offset else 0,
    )
