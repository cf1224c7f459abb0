# SPDX-License-Identifier: GPL-2.0-only
"""Dirty pages that are written to the device before a flush."""

import ctypes
import os
from pathlib import Path

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.values.names import SLOT_SECTORS, offset_of
from bcached.client.data.scattered_reads import LONG_BYTES
from bcached.client.data.write_back import begin_write_back
from bcached.units import SECTOR_BYTES
from instruments.clients.daemon_process import DaemonProcess

CACHESTAT = 451  # the number of the system call, of Linux 6.5
WAIT_FOR_BEGUN = 5  # SYNC_FILE_RANGE_WAIT_BEFORE and _AFTER, which begin none
LENGTH = 1 << 20


def dirty_pages(descriptor: int, at: int, length: int) -> int:
    """Pages of a range that are dirty once what was begun is written."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    assert libc.sync_file_range(descriptor, at, length, WAIT_FOR_BEGUN) == 0
    wanted, counts = (ctypes.c_uint64 * 2)(at, length), (ctypes.c_uint64 * 5)()
    if libc.syscall(CACHESTAT, descriptor, wanted, counts, 0):
        pytest.skip(f"no cachestat: {os.strerror(ctypes.get_errno())}")
    return counts[1]  # cached, dirty, ...


def test_what_was_begun_is_not_dirty_any_more(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(bytes(LENGTH))
        os.fsync(file.fileno())
        if dirty_pages(file.fileno(), 0, LENGTH):
            pytest.skip(f"{tmp_path} is in memory")
        file.seek(0)
        file.write(bytes(LENGTH))
        begin_write_back(file.fileno(), 0, LENGTH)
        assert dirty_pages(file.fileno(), 0, LENGTH) == 0


def test_an_error_is_left_to_the_flush() -> None:
    begin_write_back(-1, 0, LENGTH)


def test_extents_of_long_objects_are_begun_when_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []

    def noting(descriptor: int, at: int, length: int) -> None:
        begun.append((at, length))
        begin_write_back(descriptor, at, length)

    monkeypatch.setattr("bcached.client.data.data_paths.begin_write_back", noting)
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with Cache(daemon.socket_path, "objects") as cache, BlockingClient(daemon.socket_path) as client:
            cache.set("short", bytes(LONG_BYTES // 2), wait=True)
            assert begun == []
            cache.set("long", bytes(LONG_BYTES), wait=True)
            inode = client.open_volume("objects")[0]
            keys = client.lookup(inode, offset_of(b"long"), SLOT_SECTORS).keys
            places = [(key.pointers[0].sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES) for key in keys]
            assert begun == places
