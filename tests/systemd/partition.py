# SPDX-License-Identifier: GPL-2.0-only
"""A named partition of a disk behind a loop device: what the udev rule and the drop-in are for."""

import struct
import subprocess
import uuid
import zlib
from pathlib import Path
from typing import Self

from kernel.errors import CannotRun

NAME = "bcached-fast"  # as in systemd/block-device.conf
SECTOR = 512
DISK_SECTORS = (512 << 20) // SECTOR
FIRST, COUNT = 2048, (400 << 20) // SECTOR  # of the partition
ENTRIES, ENTRY_BYTES = 128, 128
TABLE_SECTORS = ENTRIES * ENTRY_BYTES // SECTOR
LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


class Partition:
    """Exists for as long as the block runs; raises CannotRun where there are no loop devices."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "disk.img"
        self._disk = ""

    def __enter__(self) -> Self:
        write_disk(self._image, NAME)
        self._disk = _run("losetup", "--find", "--show", str(self._image)).strip()
        try:  # said to the kernel, which may have been built without partition tables
            _run("addpart", self._disk, "1", str(FIRST), str(COUNT))
        except CannotRun:
            _run("losetup", "--detach", self._disk)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _run("delpart", self._disk, "1")
        _run("losetup", "--detach", self._disk)

    @property
    def nodes(self) -> dict[str, str]:
        """The names of the disk and the partition, each with its device number as mknod takes it."""
        disk = Path(self._disk).name
        block = Path("/sys/class/block")
        return {
            name: (block / name / "dev").read_text().strip().replace(":", " ") for name in (disk, f"{disk}p1")
        }


def write_disk(path: Path, name: str) -> None:
    """Write a disk with one partition of that name."""
    table = struct.pack(
        "<16s16sQQQ72s",
        LINUX_DATA.bytes_le,
        uuid.uuid4().bytes_le,
        FIRST,
        FIRST + COUNT - 1,
        0,
        name.encode("utf-16-le"),
    ).ljust(TABLE_SECTORS * SECTOR, b"\0")
    disk = uuid.uuid4().bytes_le
    last = DISK_SECTORS - 1
    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, last)
    with path.open("wb") as file:
        file.truncate(DISK_SECTORS * SECTOR)
        file.write((bytes(446) + protective).ljust(510, b"\0") + b"\x55\xaa")
        file.write(_header(1, last, 2, disk, table) + table)
        file.seek((last - TABLE_SECTORS) * SECTOR)
        file.write(table + _header(last, 1, last - TABLE_SECTORS, disk, table))


def _header(here: int, other: int, table_at: int, disk: bytes, table: bytes) -> bytes:
    """A header of the GPT, with its checksum."""

    def with_checksum(checksum: int) -> bytes:
        bounds = (here, other, 2 + TABLE_SECTORS, DISK_SECTORS - TABLE_SECTORS - 2)
        of_table = (table_at, ENTRIES, ENTRY_BYTES, zlib.crc32(table))
        start = (b"EFI PART", 0x10000, 92, checksum, 0)
        return struct.pack("<8sIIIIQQQQ16sQIII", *start, *bounds, disk, *of_table)

    return with_checksum(zlib.crc32(with_checksum(0))).ljust(SECTOR, b"\0")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotRun(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command[:2])}: {done.stderr.strip()}")
    return done.stdout
