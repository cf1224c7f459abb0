# SPDX-License-Identifier: GPL-2.0-only
"""How long the loop is held while garbage is collected, counted in the process: what the neighbours of a busy
machine take is left out.

    python -m bench.holds FOLDER COLLECTIONS      opens the set in FOLDER; prints milliseconds as JSON

Something that never waits runs between all else on the loop. From one of its turns to the next is a hold, in
processor time of the loop's thread.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from time import thread_time
from typing import Any

import uvloop

from bcached.device.file_device import FileDevice
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running

SETTLE_S = 1.0
QUIET_S = 1.0


class Holds:
    """Counts while it is told to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def run(self) -> None:
        last = thread_time()
        while True:
            await asyncio.sleep(0)
            now = thread_time()
            self.seconds.append(now - last)
            last = now

    def told(self) -> dict[str, float]:
        """The longest, and the 99th percentile of those that are more than an empty turn of the loop."""
        work = sorted(hold for hold in self.seconds if hold > 0.0001) or [0.0]
        return {"longest_ms": work[-1] * 1e3, "p99_ms": work[len(work) * 99 // 100] * 1e3, "holds": len(work)}


async def during(collections: int, folder: Path) -> dict[str, Any]:
    options = SetOptions(str(folder / "run"), str(folder / "state"))
    device = await FileDevice.open(str(folder / "cache.img"))
    async with running([device], options) as cache_set:
        await asyncio.sleep(SETTLE_S)
        found = {}
        for name in ("without", "with"):
            holds = Holds()
            counting = asyncio.ensure_future(holds.run())
            if name == "with":
                for _ in range(collections):
                    await cache_set.maintenance.collect_garbage()
            else:
                await asyncio.sleep(QUIET_S)
            counting.cancel()
            found[name] = holds.told()
        return found


def measure(folder: Path, collections: int) -> dict[str, dict[str, float]]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "bench.holds", str(folder), str(collections)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    json.dump(uvloop.run(during(int(sys.argv[2]), Path(sys.argv[1]))), sys.stdout)
