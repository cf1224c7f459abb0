# SPDX-License-Identifier: GPL-2.0-only
"""Connecting to the daemon, and advice if that fails."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bcached.cli.global_options import SOCKET_VARIABLE, GlobalOptions
from bcached.client.blocking import BlockingClient
from bcached.errors import BcachedError, ConnectionLost

GIVE_IT = f"give the daemon's socket with --socket or {SOCKET_VARIABLE}"
WHAT_TO_DO = {
    errno.ENOENT: f"is the daemon running? If so, {GIVE_IT}",
    errno.ENOTDIR: GIVE_IT,
    errno.ECONNREFUSED: "no process listens there; is the daemon running?",
    errno.EACCES: "join the socket's group, or use sudo",
    errno.EPROTOTYPE: GIVE_IT,
}
ADVICE = {os.strerror(number): advice for number, advice in WHAT_TO_DO.items()}


@contextmanager
def connected(options: GlobalOptions) -> Iterator[BlockingClient]:
    """Yields a connection to the daemon for as long as the block runs."""
    with ExitStack() as stack:
        try:
            client = stack.enter_context(BlockingClient(options.socket))
        except ConnectionLost as error:
            advice = ADVICE.get(error.reason)
            raise BcachedError(f"{error}; {advice}" if advice else str(error)) from None
        yield client
