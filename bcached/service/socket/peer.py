"""Who is at the other end of a Unix socket, in the kernel's words: pid, uid and groups at connect time."""

import socket
from typing import NamedTuple

SO_PEERGROUPS = 59  # <asm-generic/socket.h>; Python has no name for it
GROUP_LIST_BYTES = 1024  # the most Python's getsockopt takes: 256 groups; a longer list is not read


class Peer(NamedTuple):
    """A connected process; pid is None where the kernel has no number for it in our namespace."""

    pid: int | None
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected; OSError if it has no credentials to show."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = memoryview(raw).cast("i")
    # The kernel keeps uid and gid unsigned; (uid_t) -1 means nobody that we know.
    return Peer(pid or None, uid & 0xFFFFFFFF, frozenset((gid & 0xFFFFFFFF, *_supplementary(connection))))


def _supplementary(connection: socket.socket) -> tuple[int, ...]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUP_LIST_BYTES)
    except OSError:  # a kernel without it, or more groups than fit: the group file still speaks for the peer
        return ()
    return tuple(memoryview(raw).cast("I"))
