"""Lease files: how a new life of the daemon knows that writers of a former one have stopped.

Each life makes one. Whoever writes to the device holds a shared lock on it while it may; who can lock it
exclusively knows that nobody does any more. The file tells in which boot it was made, since no writer
outlives that.
"""

import contextlib
import fcntl
import glob
import os

from bcached.errors import DeviceError

MODE = 0o440
SUFFIX = ".lease"


def boot_id() -> str:
    """Which boot of the machine this is."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def create_lease(directory: str, name: str, life: int, boot: str, gid: int | None = None) -> str:
    """Make the lease file of a life; its path."""
    path = os.path.join(directory, f"{name}.{life:016x}{SUFFIX}")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        try:
            os.fchmod(descriptor, MODE)
            if gid is not None:
                os.fchown(descriptor, -1, gid)
            os.write(descriptor, f"{boot}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DeviceError(path, f"cannot make the lease file: {error.strerror}") from None
    return path


class OldLease:
    """The lease file of a former life."""

    def __init__(self, path: str, boot: str) -> None:
        self.path = path
        self.boot = boot

    def is_let_go(self) -> bool:
        """Whether nobody holds it any more."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise DeviceError(self.path, f"cannot open the lease file: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def remove(self) -> None:
        """Nobody needs it any more."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def old_leases(directory: str, name: str) -> list[OldLease]:
    """The lease files of all former lives of a set."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), f"{name}.*{SUFFIX}"))):
        try:
            with open(path, encoding="ascii") as file:
                found.append(OldLease(path, file.read(64).strip()))
        except (OSError, UnicodeDecodeError):
            found.append(OldLease(path, ""))  # unreadable: of this boot, for all we know
    return found
