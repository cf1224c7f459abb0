# SPDX-License-Identifier: GPL-2.0-only
"""Which processes hold a lock on a file or have it open, as far as the kernel shows.

/proc/locks lists the process that *took* a flock, and none for a lock of an open file description. The
processes that have such a lock, or a flock whose taker has ended, are found by their open files
(/proc/PID/fdinfo), which root can read of all processes, other users of their own.
"""

import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from bcached.errors import calling

FLOCK, RECORD_LOCKS = ("FLOCK",), ("OFDLCK", "POSIX")
WRITE = "WRITE"  # the other kind is READ


@dataclass(frozen=True, slots=True)
class Process:
    """A process as named in a message: pid 0 if it is not visible in this PID namespace.

    uid is the real one: a set-user-id program runs for the user that started it; None where it is hidden.
    has_ended: a process that cannot be found has inherited its lock.
    """

    pid: int
    command: str = ""
    uid: int | None = None
    has_ended: bool = False

    def __str__(self) -> str:
        if self.pid <= 0:
            return "another process"
        if self.has_ended:
            return f"a process left by process {self.pid} (ended)"
        known = [self.command] if self.command else []
        known += [f"user {_user_name(self.uid)}"] if self.uid is not None else []
        return f"process {self.pid}" + (f" ({', '.join(known)})" if known else "")


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A lock on a file, READ or WRITE, and the process that holds it."""

    kind: str
    process: Process


def flock_holders(descriptor: int) -> list[LockHolder]:
    """Returns every flock on the file, except those of processes of other containers.

    1. The process that took it still has it, or its files cannot be read.
    2. Processes that inherited it have it.
    3. No such process is visible.
    """
    file_id = _file_id(descriptor)
    found = []
    for kind, pid in _listed_flocks(file_id):
        if _exists(pid) and _has_lock(pid, file_id, FLOCK, pid) is not False:
            found.append(LockHolder(kind, process(pid)))
        else:
            heirs = [LockHolder(kind, process(heir)) for heir in _pids_with_lock(file_id, FLOCK, pid)]
            found += heirs or [LockHolder(kind, Process(pid, has_ended=True))]
    return found


def record_lock_holders(descriptor: int) -> list[Process]:
    """Returns the visible processes that hold a POSIX or open-file-description lock on the file."""
    return [process(pid) for pid in _pids_with_lock(_file_id(descriptor), RECORD_LOCKS)]


def openers(file: os.stat_result, *, to_write: bool = False) -> Iterator[Process]:
    """Yields the visible processes that have the file or block device open, under any name."""
    for pid in _pids():
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if not _is_same(file, os.stat(f"/proc/{pid}/fd/{name}")):
                        continue
                    if not to_write or _may_write(pid, name):
                        yield process(pid)
                        break


def process(pid: int) -> Process:
    """Returns what /proc shows of a process."""
    fields = {}
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    uids = fields.get("Uid", "").split()
    command = "".join(letter if letter.isprintable() else "?" for letter in fields.get("Name", ""))
    return Process(pid, command, int(uids[0]) if uids else None)


def _may_write(pid: int, descriptor: str) -> bool:
    """Whether a process's descriptor is open for writing."""
    with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as info:
        flags = next((line.split()[1] for line in info if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _is_same(file: os.stat_result, other: os.stat_result) -> bool:
    """Whether both are the same bytes; a block device may have several nodes."""
    if stat.S_ISBLK(file.st_mode):
        return stat.S_ISBLK(other.st_mode) and file.st_rdev == other.st_rdev
    return os.path.samestat(file, other)


def _file_id(descriptor: int) -> str:
    """Returns the file's id in /proc/locks. On some file systems fstat returns another device number."""
    file = calling(os.fstat, descriptor)
    major, minor, inode = os.major(file.st_dev), os.minor(file.st_dev), file.st_ino
    with suppress(OSError, ValueError):
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        inode = int(fields.get("ino", inode))
        mount = fields["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            numbers = next(line.split()[2] for line in mounts if line.split(" ", 1)[0] == mount)
        major, minor = map(int, numbers.split(":"))
    return f"{major:02x}:{minor:02x}:{inode}"


def _listed_flocks(file_id: str) -> list[tuple[str, int]]:
    """Returns the kind and the taker of each flock on the file."""
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            return [(fields[3], int(fields[4])) for fields in _locks_at(file_id, locks, FLOCK)]
    except OSError:
        return []


def _locks_at(file_id: str, lines: Iterable[str], types: tuple[str, ...]) -> Iterator[list[str]]:
    """Yields the fields of lines about held locks of these types on the file, not of those waited for."""
    for line in lines:
        fields = line.removeprefix("lock:").split()
        if len(fields) > 5 and fields[1] in types and fields[5] == file_id:
            yield fields


def _exists(pid: int) -> bool:
    """Whether the process still runs; pid 0 is one outside this PID namespace."""
    if pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pids_with_lock(file_id: str, types: tuple[str, ...], taker: int | None = None) -> list[int]:
    """Returns the processes that have such a lock; with taker, only locks that process took."""
    return [pid for pid in _pids() if _has_lock(pid, file_id, types, taker)]


def _has_lock(pid: int, file_id: str, types: tuple[str, ...], taker: int | None = None) -> bool | None:
    """Whether a process has such a lock; None if its files cannot be read."""
    try:
        names = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return None
    for name in names:
        with (
            suppress(OSError),
            open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii", errors="replace") as info,
        ):
            locks = _locks_at(file_id, (line for line in info if line.startswith("lock:")), types)
            if any(taker is None or int(fields[4]) == taker for fields in locks):
                return True
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
