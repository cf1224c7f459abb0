# SPDX-License-Identifier: GPL-2.0-only
"""Many sectors by one call: as single reads would return them, also where an image has no data."""

import os
from pathlib import Path

from bcached.device.file_device import FileDevice
from bcached.device.sampling import read_sectors
from bcached.store.patched_device import Patch, PatchedDevice
from bcached.units import SECTOR_BYTES
from instruments.devices.bad_sectors import BadSectorsDevice
from instruments.devices.memory_device import MemoryDevice

MIB = 1 << 20
EMPTY = bytes(SECTOR_BYTES)


def sparse_image(folder: Path) -> Path:
    """Eight MiB, with a sector in the second one and another near the end of the fourth."""
    path = folder / "sparse.img"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for offset, byte in ((MIB, b"a"), (4 * MIB - SECTOR_BYTES, b"b")):
            file.seek(offset)
            file.write(byte * SECTOR_BYTES)
    return path


async def test_holes_are_zeros_and_what_is_between_them_is_read(tmp_path: Path) -> None:
    path = sparse_image(tmp_path)
    device = await FileDevice.open(str(path), writable=False, exclusive=False)
    offsets = [*range(0, 8 * MIB, MIB // 2), 8 * MIB - SECTOR_BYTES]
    expected: list[bytes | None] = [b"a" * SECTOR_BYTES if offset == MIB else EMPTY for offset in offsets]
    assert await read_sectors(device, offsets) == expected
    assert await read_sectors(device, [4 * MIB - 2 * SECTOR_BYTES, 4 * MIB - SECTOR_BYTES, 4 * MIB]) == [
        EMPTY,
        b"b" * SECTOR_BYTES,
        EMPTY,
    ]
    assert device.errors == 0
    await device.close()


async def test_what_cannot_be_read_is_none_and_counted(tmp_path: Path) -> None:
    path = sparse_image(tmp_path)
    device = await FileDevice.open(str(path), writable=False, exclusive=False)
    os.truncate(path, MIB + SECTOR_BYTES)
    assert await read_sectors(device, [MIB, 2 * MIB]) == [b"a" * SECTOR_BYTES, None]
    assert await read_sectors(device, [8 * MIB]) == [None]
    assert device.errors == 2
    await device.close()
    bad = BadSectorsDevice(MemoryDevice.holding(bytes(range(256)) * 8), [range(1, 2)])
    assert [raw is None for raw in await read_sectors(bad, range(0, 2048, 512))] == [
        False,
        True,
        False,
        False,
    ]


async def test_patches_count_here_too(tmp_path: Path) -> None:
    inner = await FileDevice.open(str(sparse_image(tmp_path)), writable=False, exclusive=False)
    for device in (inner, MemoryDevice.holding(sparse_image(tmp_path).read_bytes())):
        patched = PatchedDevice(device, [Patch(0, 2 * MIB, b"c" * SECTOR_BYTES)])
        found = await read_sectors(patched, [0, MIB, 2 * MIB, 3 * MIB])
        assert found == [EMPTY, b"a" * SECTOR_BYTES, b"c" * SECTOR_BYTES, EMPTY]
    await inner.close()
