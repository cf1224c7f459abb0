# SPDX-License-Identifier: GPL-2.0-only
"""The plugin that nbdkit runs, with a stand-in for the module that nbdkit provides."""

import errno
import runpy
import sys
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bcached import device

SCRIPT = Path(device.__file__).with_name("view_plugin.py")
SECTOR = 512


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    nbdkit = ModuleType("nbdkit")
    errors: list[int] = []
    nbdkit.__dict__.update(THREAD_MODEL_PARALLEL=3, set_error=errors.append, errors=errors)
    monkeypatch.setitem(sys.modules, "nbdkit", nbdkit)
    return runpy.run_path(str(SCRIPT), run_name="nbdkit_script")


def export(plugin: dict[str, Any], folder: Path, rows: list[int], *, base: bool = True) -> Any:
    (folder / "cache").write_bytes(b"".join(bytes([n]) * SECTOR for n in range(64)))
    (folder / "base").write_bytes(bytes([200]) * 16 * SECTOR)
    (folder / "map").write_bytes(array("Q", rows).tobytes())
    parameters = {"map": folder / "map", "cache": folder / "cache", "size": 12 * SECTOR}
    if base:
        parameters |= {"base": folder / "base", "base_sector": 4}
    for key, value in parameters.items():
        plugin["config"](key, str(value))
    return plugin["open"](True)


def read(plugin: dict[str, Any], handle: Any, first: int, sectors: int) -> list[int]:
    buffer = bytearray(sectors * SECTOR)
    plugin["pread"](handle, buffer, first * SECTOR, 0)
    assert all(len(set(buffer[at : at + SECTOR])) == 1 for at in range(0, len(buffer), SECTOR))
    return list(buffer[::SECTOR])


ROWS = [1, 2, 0, 30, 3, 1, 0, 10, 8, 4, 0, 50]


def test_dirty_sectors_are_the_cache_s_and_others_the_backing_device_s(
    plugin: dict[str, Any], tmp_path: Path
) -> None:
    handle = export(plugin, tmp_path, ROWS)
    assert plugin["get_size"](handle) == 12 * SECTOR
    whole = [200, 30, 31, 10, 200, 200, 200, 200, 50, 51, 52, 53]
    for first in range(12):
        for sectors in range(1, 13 - first):
            assert read(plugin, handle, first, sectors) == whole[first : first + sectors]
    assert not plugin["can_write"](handle)


def test_without_a_backing_device_the_rest_is_zeros(plugin: dict[str, Any], tmp_path: Path) -> None:
    assert read(plugin, export(plugin, tmp_path, ROWS, base=False), 0, 5) == [0, 30, 31, 10, 0]


def test_an_empty_map_shows_the_backing_device(plugin: dict[str, Any], tmp_path: Path) -> None:
    assert read(plugin, export(plugin, tmp_path, []), 0, 12) == [200] * 12


def test_what_cannot_be_read_is_an_error(plugin: dict[str, Any], tmp_path: Path) -> None:
    handle = export(plugin, tmp_path, [0, 4, 0, 62])
    with pytest.raises(OSError, match="the device ends here"):
        read(plugin, handle, 0, 4)
    assert sys.modules["nbdkit"].errors == [errno.EIO]
