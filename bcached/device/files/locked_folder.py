# SPDX-License-Identifier: GPL-2.0-only
"""A temporary folder for an export's socket. If its process is killed, the next export removes it.

A process keeps its folder locked: the kernel releases the lock at the process's end, whatever that is.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "bcachectl-nbd-"


@contextmanager
def locked_folder() -> Iterator[Path]:
    """Yields a new folder, which is removed at the end; those that killed processes left are removed, too."""
    _remove_abandoned()
    folder, descriptor = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _made() -> tuple[Path, int]:
    """Returns a folder, and the descriptor that keeps it locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        descriptor = _locked(folder)
        if descriptor is None:
            continue  # another export found it in between
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        descriptor = _locked(folder)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Returns a descriptor that keeps a folder locked; None if it is another's, or not there any more."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
