# SPDX-License-Identifier: GPL-2.0-only
"""Programs of this machine, to run in the guest: with their libraries, where they look for them."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .process import need, run

LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")
PLACE = "host"  # the programs' folder in the guest


def programs(tools: Iterable[str], packages: dict[str, str]) -> dict[str, bytes]:
    """The files of these programs by their path in the guest; CannotRun where they are not installed."""
    need(packages)
    found: dict[str, bytes] = {}
    for tool in tools:
        path = shutil.which(tool)
        assert path is not None
        found[f"{PLACE}/{tool}"] = Path(path).read_bytes()
        for library in LIBRARY.findall(run(["ldd", path])):
            found[library.lstrip("/")] = Path(library).read_bytes()
    return found
