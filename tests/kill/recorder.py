# SPDX-License-Identifier: GPL-2.0-only
"""A real block device whose every write, flush and discard is logged, and power cuts that it might suffer.

qemu's storage daemon gives a file out over FUSE and logs what it is asked to change, as the kernel's
dm-log-writes would; a loop device makes a block device of it. Of what was logged behind the last flush before
a cut each sector is there or not; of what was under way it may also be garbage.
"""

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Self

from bcached.units import SECTOR_BYTES

PROGRAM = "qemu-storage-daemon"
ENTRY = struct.Struct("<4Q")  # sector, sectors, flags, bytes of a mark
FLUSH, FUA, DISCARD = 1, 2, 4
SUPERBLOCK_BYTES = SECTOR_BYTES
PATIENCE_S = 10.0
CONNECTIONS = Path("/sys/fs/fuse/connections")


def why_not() -> str | None:
    """What is missing here for such a device, if anything."""
    for program in (PROGRAM, "losetup"):
        if shutil.which(program) is None:
            return f"{program} is not there"
    missing = [path for path in ("/dev/fuse", "/dev/loop-control") if not Path(path).exists()]
    return f"{missing[0]} is not there" if missing else None if os.geteuid() == 0 else "needs root"


@dataclass(frozen=True, slots=True)
class Logged:
    """One change; end is where its entry ends in the log."""

    offset: int
    length: int
    data: bytes | None  # of a write; else it is a discard
    is_flush: bool
    end: int


class RecordedDevice:
    """The block device `path`, over the bytes of a file, while the block lasts."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.disk, self._log, self._export = (folder / name for name in ("disk", "log", "export"))
        self._pid = folder / "pid"
        self.path = ""
        self._size_bytes = size_bytes
        if not self.disk.exists():
            with self.disk.open("wb") as disk:
                disk.truncate(size_bytes)
        self.base = b""

    def __enter__(self) -> Self:
        self.base = self.disk.read_bytes()
        self._log.write_bytes(bytes(SUPERBLOCK_BYTES))
        self._export.touch()
        drivers = [
            f"driver=file,node-name=disk0,discard=unmap,filename={self.disk}",
            f"driver=file,node-name=log0,filename={self._log}",
            f"driver=blklogwrites,node-name=rec,discard=unmap,file=disk0,log=log0,log-sector-size={SECTOR_BYTES}",
        ]
        command = [PROGRAM, *(word for driver in drivers for word in ("--blockdev", driver))]
        command += ["--export", f"type=fuse,id=fuse0,node-name=rec,mountpoint={self._export},writable=on"]
        subprocess.run([*command, "--pidfile", self._pid, "--daemonize"], check=True)
        command = ["losetup", "--find", "--show", "--direct-io=on", str(self._export)]
        self.path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        direct = Path(f"/sys/block/{Path(self.path).name}/loop/dio").read_text().strip()
        assert direct == "1", "a loop device that buffers hides what is not flushed"
        self._one_at_a_time()
        return self

    def _one_at_a_time(self) -> None:
        """Have FUSE hand over one write after the other: more at once, and qemu 7.2 mixes up their data."""
        if not any(CONNECTIONS.iterdir()):
            subprocess.run(["mount", "-t", "fusectl", "none", CONNECTIONS], check=True)
        connection = CONNECTIONS / str(os.minor(self._export.stat().st_dev))
        (connection / "max_background").write_text("1")

    def __exit__(self, *_: object) -> None:
        if self.path:
            subprocess.run(["losetup", "--detach", self.path], check=True)
        pid = int(self._pid.read_text())
        os.kill(pid, 15)
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def position(self) -> int:
        """How far the log has got: whatever was complete before is in front of it."""
        return self._log.stat().st_size

    def entries(self) -> Iterator[Logged]:
        """What was logged; whole once the device is closed."""
        raw = self._log.read_bytes()
        at = SUPERBLOCK_BYTES
        while at + SECTOR_BYTES <= len(raw):
            sector, sectors, flags, _ = ENTRY.unpack_from(raw, at)
            begin = at + SECTOR_BYTES
            length = sectors * SECTOR_BYTES
            at = begin + (0 if flags & DISCARD else length)
            data = None if flags & DISCARD else raw[begin:at]
            yield Logged(sector * SECTOR_BYTES, length, data, bool(flags & (FLUSH | FUA)), at)


@dataclass(frozen=True, slots=True)
class Cut:
    """The device's bytes after a power cut, and how far the log had got."""

    image: bytes
    position: int
    undecided: int  # sectors that might be there or not
    garbled: bool  # whether one that was under way may be garbage, as some devices leave it


def cuts(base: bytes, entries: Sequence[Logged], count: int, random: Random) -> Iterator[Cut]:
    """Cuts at so many places of the log, the later the farther on."""
    durable = bytearray(base)
    applied = 0
    for place in sorted(random.sample(range(1, len(entries)), min(count, len(entries) - 1))):
        flushed = max((i + 1 for i in range(applied, place) if entries[i].is_flush), default=applied)
        for entry in entries[applied:flushed]:
            _apply(durable, entry, random)
        applied = flushed
        image = bytearray(durable)
        waiting = list(entries[flushed:place])
        random.shuffle(waiting)
        landing = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for entry in waiting:
            _apply(image, entry, random, landing)
        landed, garbled = random.random(), random.random() < 0.5
        _apply(image, entries[place], random, landed, garbage=garbled)
        undecided = sum(entry.length for entry in (*waiting, entries[place])) // SECTOR_BYTES
        yield Cut(bytes(image), entries[place - 1].end, undecided, garbled)


def _apply(
    image: bytearray, entry: Logged, random: Random, landing: float = 1.0, *, garbage: bool = False
) -> None:
    """Have the sectors of a change there, each with that likelihood; one of them may be garbage."""
    spoilt = random.randrange(entry.length // SECTOR_BYTES) if garbage and entry.length else -1
    for index in range(entry.length // SECTOR_BYTES):
        begin = entry.offset + index * SECTOR_BYTES
        if index == spoilt or (entry.data is None and random.random() < 0.3):
            image[begin : begin + SECTOR_BYTES] = random.randbytes(SECTOR_BYTES)
        elif landing == 1.0 or random.random() < landing:
            at = index * SECTOR_BYTES
            image[begin : begin + SECTOR_BYTES] = (
                bytes(SECTOR_BYTES) if entry.data is None else entry.data[at : at + SECTOR_BYTES]
            )
