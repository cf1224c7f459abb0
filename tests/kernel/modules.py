# SPDX-License-Identifier: GPL-2.0-only
"""The guest's kernel modules, in an order in which each finds those it needs.

A module names what it depends on in its own .modinfo section, so no depmod is needed. A name for which
there is no file is built into this kernel.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from .packages import placed
from .packed import unpack

WANTED = ("virtio_mmio", "virtio_blk", "bcache")


def load_order(root: Path, wanted: Sequence[str] = WANTED) -> dict[str, bytes]:
    """Modules by name, with their bytes, dependencies first."""
    files = {module_name(path): path for path in placed(root, "lib/modules").glob("*/kernel/**/*.ko*")}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in files:
            return
        data = unpack(files[name].read_bytes())
        for needed in dependencies(data):
            add(needed)
        ordered[name] = data

    for name in wanted:
        add(name)
    return ordered


def module_name(path: Path) -> str:
    """virtio_blk for .../virtio_blk.ko.xz; dashes count as underscores, as in modinfo."""
    return path.name.split(".ko")[0].replace("-", "_")


def dependencies(module: bytes) -> list[str]:
    """The names a module says it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []
