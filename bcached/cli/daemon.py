"""The way to the daemon, and what to do when there is none."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bcached.cli.session import SOCKET_VARIABLE, Session
from bcached.client.blocking import BlockingClient
from bcached.errors import BcachedError

GIVE_IT = f"give the daemon's with --socket or {SOCKET_VARIABLE}"
WHAT_TO_DO = {
    errno.ENOENT: f"no such socket; is the daemon running? If so, {GIVE_IT}",
    errno.ENOTDIR: f"no such socket; {GIVE_IT}",
    errno.ECONNREFUSED: "nobody listens there; is the daemon running?",
    errno.EACCES: "permission denied; be in the socket's group, or use sudo",
    errno.EPROTOTYPE: f"not a stream socket; {GIVE_IT}",
}


@contextmanager
def connected(session: Session) -> Iterator[BlockingClient]:
    """A connection to the daemon for as long as the block runs."""
    try:
        client = BlockingClient(session.socket)
    except OSError as error:
        reason = WHAT_TO_DO.get(error.errno or 0, error.strerror or str(error))
        raise BcachedError(f"cannot connect to {session.socket}: {reason}") from None
    with client:
        yield client
