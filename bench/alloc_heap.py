# SPDX-License-Identifier: GPL-2.0-only
"""The seed's lru in C, built with cc -O2 when the benchmark runs, and called on our columns."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import Geometry

SOURCE = Path(__file__).with_name("alloc_heap.c")


class Columns(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("states", "gens", "last_gc", "prios", "sectors", "pins")]


def compiler() -> str | None:
    return shutil.which("cc")


class AllocHeap:
    """The compiled function, and the memory it works in."""

    def __init__(self, folder: Path) -> None:
        library = folder / "alloc_heap.so"
        command = ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
        self.function = ctypes.CDLL(str(library)).invalidate_lru
        self.function.restype = ctypes.c_size_t
        u8, u32, size, pointer = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_void_p
        self.function.argtypes = [pointer, u8, u32, u32, u32, pointer, size, pointer, size]

    def invalidate(self, table: BucketTable, geometry: Geometry, min_prio: int) -> np.ndarray:
        """One pass; the buckets that went to free_inc."""
        heap = np.zeros(geometry.heap_size, np.uint32)
        free_inc = np.zeros(geometry.free_inc_capacity, np.uint32)
        arrays = (
            table.states_array,
            table.gens_array,
            table.last_gc_array,
            table.prios_array,
            table.sectors_array,
            table.pins_array,
        )
        columns = Columns(*(array.ctypes.data for array in arrays))
        taken = self.function(
            ctypes.byref(columns),
            State.CLEAN,
            geometry.first_bucket,
            geometry.bucket_count,
            min_prio,
            heap.ctypes.data,
            len(heap),
            free_inc.ctypes.data,
            len(free_inc),
        )
        return free_inc[:taken]
