# SPDX-License-Identifier: GPL-2.0-only
"""New files of the daemon that a group may read: its clients map the gens, and lock the lease."""

import os
from contextlib import suppress

from bcached.errors import calling

GROUP_FILE_MODE = 0o440


def create_group_file(path: str, access: int, gid: int | None) -> int:
    """Returns the descriptor of a new file at path, its mode independent of the umask.

    Raises OSError and then leaves no file. The group is changed only if it differs: the daemon's own group
    needs no chown, which a sandbox might forbid.
    """
    flags = access | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor: int = calling(os.open, path, flags, GROUP_FILE_MODE)
    try:
        calling(os.fchmod, descriptor, GROUP_FILE_MODE)
        if gid is not None and calling(os.fstat, descriptor).st_gid != gid:
            _give_to_group(descriptor, gid)
    except BaseException:
        os.close(descriptor)
        remove_quietly(path)
        raise
    return descriptor


def remove_quietly(path: str) -> None:
    """Unlink the path if it exists; errors are ignored."""
    with suppress(OSError):
        os.unlink(path)


def _give_to_group(descriptor: int, gid: int) -> None:
    try:
        calling(os.fchown, descriptor, -1, gid)
    except PermissionError as error:
        error.strerror = (
            f"{error.strerror}; the daemon's user must be a member of group {gid} (socket.group), "
            "and its sandbox allow the call"
        )
        raise
