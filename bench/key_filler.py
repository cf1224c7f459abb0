# SPDX-License-Identifier: GPL-2.0-only
"""Fills a set with keys, in a process of its own: no socket, only the index and all below it.

    python -m bench.key_filler FOLDER ORDER COUNT      ORDER: sequence, random; prints what it took as JSON

Each key is 8 sectors with a gap behind, so no two become one. They come in batches, as from clients that
commit several at once, and nobody waits for any of them: the journal writer and the leaf writer keep up, or
the batches wait. At the end all of it is flushed and written out, which counts.
"""

import asyncio
import json
import sys
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import uvloop

from bcached.device.file_device import FileDevice
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bench.requests import EXTENT_SECTORS

BATCH = 64
GAP_SECTORS = 8
STRIDE = EXTENT_SECTORS + GAP_SECTORS
PATIENCE_S = 600.0
LABEL = "keys"


async def fill(folder: Path, order: str, count: int) -> dict[str, Any]:
    options = SetOptions(str(folder / "run"), str(folder / "state"))
    device = await FileDevice.open(str(folder / "cache.img"))
    async with running([device], options) as cache_set:
        inode = await cache_set.volumes.create(LABEL)
        offsets = np.arange(count, dtype=np.uint32)
        if order == "random":
            np.random.default_rng(1).shuffle(offsets)
        began, processor, on_loop = perf_counter(), process_time(), thread_time()
        allocated_s, waits = await _commit_all(cache_set, inode, offsets)
        await cache_set.index.flush()
        await cache_set.index.write_out()
        loop_s = thread_time() - on_loop
        tree, io = cache_set.index.nodes.tree, cache_set.index.nodes.io
        keys = list(tree.node_keys())
        return {
            "order": order,
            "count": count,
            "elapsed_s": perf_counter() - began,
            "processor_s": process_time() - processor,
            "loop_s": loop_s,
            "allocate_s": allocated_s,
            "waits": waits,
            "node_bytes": sum(key.sectors for key in keys) * 512,
            "nodes": len(keys),
            "memory_bytes": tree.leaves.memory_bytes,
            "written_bytes": sum(io.written_bytes),
            "nodes_written": io.nodes_written,
            "nodes_read": io.nodes_read,
            "blocks_appended": io.blocks_appended,
            "entries": cache_set.journal.seq,
            "peak_bytes": _peak_bytes(),
        }


async def _commit_all(cache_set: CacheSet, inode: int, offsets: np.ndarray) -> tuple[float, int]:
    """Processor seconds of the loop that went into allocating, and how many batches had to wait."""
    holder, index = cache_set.allocations.new_holder("filler"), cache_set.index
    allocated_s, waits = 0.0, 0
    for start in range(0, len(offsets), BATCH):
        wanted = [
            ExtentRequest(inode, offset * STRIDE, EXTENT_SECTORS, 1)
            for offset in offsets[start : start + BATCH].tolist()
        ]
        began = thread_time()
        keys = await _allocate(cache_set, holder, wanted)
        allocated_s += thread_time() - began
        if index.try_commit(holder, keys) is None:
            waits += 1
            await index.commit(holder, keys, PATIENCE_S)
        await asyncio.sleep(0)
    return allocated_s, waits


async def _allocate(cache_set: CacheSet, holder: Holder, wanted: list[ExtentRequest]) -> list[Key]:
    keys: list[Key] = []
    while len(keys) < len(wanted):
        run = cache_set.allocations.carve_run(holder, wanted, len(keys), 1)
        if not run:
            ((key,),) = await cache_set.allocations.allocate(holder, [wanted[len(keys)]], PATIENCE_S)
            run = [key]
        keys += run
    return keys


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    json.dump(uvloop.run(fill(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))), sys.stdout)
