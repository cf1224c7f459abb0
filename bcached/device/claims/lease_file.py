# SPDX-License-Identifier: GPL-2.0-only
"""Lease files: how a run of the daemon knows that writers of previous runs have stopped.

Each run creates one. A client holds a read lock on it while it may write to the device; when the kernel lists
no lock, no client may. The file contains the boot id of its creation, since no writer survives a reboot.

Clients may only read the file, so they can only take locks that do not exclude other clients. The daemon only
tests for locks: a client takes its lease before it gets sectors, so a lease that is taken after the end of a
run covers no sectors.
"""

import fcntl
import glob
import os
from typing import Any

from bcached.device.claims.lock_holders import Process, flock_holders, record_lock_holders
from bcached.device.files.group_file import create_group_file, remove_quietly
from bcached.errors import DeviceError, calling, reason
from bcached.wire.lease_lock import kind_of, whole_file

BOOT_ID = "/proc/sys/kernel/random/boot_id"
LEASE_SUFFIX = ".lease"


def boot_id() -> str:
    """Returns the kernel's id of the current boot."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise DeviceError(BOOT_ID, f"cannot read it: {reason(error)}") from None


def create_lease(directory: str, name: str, run: int, boot: str, gid: int | None = None) -> str:
    """Create the lease file of a run; returns its path."""
    path = os.path.join(directory, f"{name}.{run:016x}{LEASE_SUFFIX}")
    try:
        descriptor = create_group_file(path, os.O_WRONLY, gid)
        try:
            calling(os.write, descriptor, f"{boot}\n".encode())
            calling(os.fsync, descriptor)
        except BaseException:
            remove_quietly(path)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DeviceError(path, f"cannot make the lease file: {reason(error)}") from None
    return path


class OldLease:
    """The lease file of a previous run."""

    def __init__(self, path: str, boot: str) -> None:
        self.path = path
        self.boot = boot

    def is_released(self) -> bool:
        """Whether no client holds it any more, by a record lock or by flock.

        1. The file is removed: no client does.
        2. It is not readable for this user: unknown, and counted as held.
        3. Otherwise its locks are tested.
        """
        try:
            descriptor = self._open()
        except FileNotFoundError:
            return True
        except PermissionError:  # created by a daemon of another user: the grace period is waited
            return False
        except OSError as error:
            raise DeviceError(self.path, f"cannot open the lease file: {reason(error)}") from None
        try:
            return not _is_locked(descriptor)
        except OSError as error:
            raise DeviceError(self.path, f"cannot query the lease's locks: {reason(error)}") from None
        finally:
            os.close(descriptor)

    def holders(self) -> list[Process]:
        """Returns the processes that hold it, as far as they are visible."""
        try:
            descriptor = self._open()
        except OSError:
            return []
        try:
            holders = {holder.process for holder in flock_holders(descriptor)}
            return sorted(holders.union(record_lock_holders(descriptor)), key=lambda process: process.pid)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def remove(self) -> None:
        """Remove the file: no run waits for its holders any more."""
        remove_quietly(self.path)


def _is_locked(descriptor: int) -> bool:
    answer: Any = calling(fcntl.fcntl, descriptor, fcntl.F_OFD_GETLK, whole_file(fcntl.F_WRLCK))
    if kind_of(answer) != fcntl.F_UNLCK:
        return True
    try:
        calling(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def old_leases(directory: str, name: str) -> list[OldLease]:
    """Returns the lease files of all previous runs of a set."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), f"{name}.*{LEASE_SUFFIX}"))):
        try:
            with open(path, encoding="ascii") as file:
                found.append(OldLease(path, file.read(64).strip()))
        except (OSError, UnicodeDecodeError):
            found.append(OldLease(path, ""))  # unreadable: treated as of this boot
    return found
