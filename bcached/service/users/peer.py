# SPDX-License-Identifier: GPL-2.0-only
"""The peer of a Unix socket as the kernel reports it: pid, uid and groups at connect time."""

import socket
from typing import NamedTuple

SO_PEERGROUPS = 59  # <asm-generic/socket.h>; not in Python's socket module
GROUP_LIST_BYTES = 1024  # the maximum of Python's getsockopt: 256 groups; a longer list is not read


class Peer(NamedTuple):
    """A connected process; pid is None if it has none in our pid namespace."""

    pid: int | None
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Returns the process that connected. Raises OSError if the socket has no credentials."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = memoryview(raw).cast("i")
    # The kernel keeps uid and gid unsigned; (uid_t) -1 is no known user.
    return Peer(pid or None, uid & 0xFFFFFFFF, frozenset((gid & 0xFFFFFFFF, *_supplementary(connection))))


def _supplementary(connection: socket.socket) -> tuple[int, ...]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUP_LIST_BYTES)
    except OSError:  # a kernel without it, or more groups than fit: the group file still lists the user
        return ()
    return tuple(memoryview(raw).cast("I"))
