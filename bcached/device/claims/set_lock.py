# SPDX-License-Identifier: GPL-2.0-only
"""The lock on a set's files: its leases and its maps of gens, in the daemon's directories.

A copy of an image has the same set uuid, and the image's own lock does not cover it: two daemons on two
copies would replace each other's maps, and take each other's leases for those of previous runs.

The lock files are accessible to the daemon's user alone (mode 0600), so no client can hold one.
"""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress

from bcached.device.claims.lock_holders import flock_holders
from bcached.errors import DeviceError, SetRefused, calling, reason

LOCK_MODE = 0o600
LOCK_SUFFIX = ".lock"


class SetLock:
    """Held while a set is open; SetRefused if another process has it open, with one of the directories."""

    def __init__(self, set_uuid: str, directories: Iterable[str]) -> None:
        self._held: list[tuple[str, int]] = []
        try:
            for directory in dict.fromkeys(map(os.path.realpath, directories)):
                path = os.path.join(directory, f"{set_uuid}{LOCK_SUFFIX}")
                self._held.append((path, _locked(path, set_uuid)))
        except OSError as error:
            self.release()
            raise DeviceError(path, f"cannot lock the set's files: {reason(error)}") from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Remove and unlock the lock files."""
        while self._held:
            path, descriptor = self._held.pop()
            with suppress(OSError):
                os.unlink(path)  # before the lock is released: afterwards it may be another process's
            os.close(descriptor)


def _locked(path: str, set_uuid: str) -> int:
    """Returns a locked descriptor of the file at the path; retries if that was removed meanwhile."""
    while True:
        descriptor = _opened(path)
        try:
            calling(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            holders = [str(holder.process) for holder in flock_holders(descriptor)] or ["another process"]
            os.close(descriptor)
            raise SetRefused(
                f"set {set_uuid} is in use: {', '.join(holders)} runs it, with its files in "
                f"{os.path.dirname(path)}; a copy of its devices needs directories of its own"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: str) -> int:
    """Returns a descriptor of the lock file, created if missing; its owner becomes the directory's."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor: int = calling(os.open, path, flags, LOCK_MODE)
    directory = os.stat(os.path.dirname(path))
    with suppress(OSError):
        os.fchmod(descriptor, LOCK_MODE)
        if os.fstat(descriptor).st_uid != directory.st_uid:
            os.fchown(descriptor, directory.st_uid, directory.st_gid)
    return descriptor


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
