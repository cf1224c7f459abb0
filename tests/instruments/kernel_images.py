"""The images that the real kernel wrote, and what it said of them."""

import json
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bcached.device import MemoryDevice
from bcached.keys import Key, Pointer

FOLDER = Path(__file__).parent.parent / "fixtures" / "kernel"
NAMES = ("clean", "crash", "flash", "full-lru")


@dataclass(frozen=True)
class KernelImage:
    """One image, and the kernel's view of it: before it stopped, registered again, and after a GC."""

    name: str
    worked: dict[str, Any]
    registered: dict[str, Any]
    collected: dict[str, Any]

    def device(self) -> MemoryDevice:
        """A device with the image's bytes."""
        return MemoryDevice.holding(image_bytes(self.name))

    def buckets(self, state: dict[str, Any], column: str) -> list[int]:
        """A column of the kernel's own memory."""
        values: list[int] = state["memory"]["buckets"][column]
        return values

    def taken_at_registration(self) -> set[int]:
        """The buckets that registering gives a new gen: those of the free lists, and of the new prios."""
        memory = self.registered["memory"]
        lists = ("free_btree", "free_prio", "free_movinggc", "free_none", "free_inc")
        return set().union(*(memory[name]["list"] for name in lists)) | set(memory["prio_buckets"])


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
    states = facts["check"]["states"]
    return KernelImage(
        name, facts["made"]["states"]["2-worked"], states["1-registered"], states["3-collected"]
    )
