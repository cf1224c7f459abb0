# SPDX-License-Identifier: MIT
"""Connecting to a Unix socket, the same for both clients: they differ in how they wait between attempts.

A blocking connect waits while the listener's queue is full; a non-blocking one fails with EAGAIN then, and no
event reports free space. asyncio takes that for a pending connection, and then for an open one. So the
attempt is repeated, less and less often, until the queue has been full for too long.
"""

import errno
import os
import socket
import time
from collections.abc import Generator

from bcached.errors import ConnectionLost

QUEUE_PATIENCE_S = 10.0  # with a daemon that runs and does not accept
FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
NOT_THERE = (errno.ENOENT, errno.ECONNREFUSED)


def connecting(path: str, patience_s: float = 0.0) -> Generator[float, None, socket.socket]:
    """Yields how many seconds to wait before the next attempt; returns the socket, which does not block.

    patience_s is how long to wait for a daemon that is not running.
    """
    try:
        attempt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:  # no descriptor is left
        raise ConnectionLost(path, error.strerror or str(error)) from None
    try:
        attempt.setblocking(False)
        yield from _until_connected(attempt, path, patience_s)
    except (OSError, ValueError) as error:  # ValueError: a NUL within the path
        attempt.close()
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConnectionLost(path, reason or str(error)) from None
    except BaseException:
        attempt.close()
        raise
    return attempt


def _until_connected(attempt: socket.socket, path: str, patience_s: float) -> Generator[float, None, None]:
    began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            attempt.connect(path)
        except BlockingIOError:  # the queue is full
            if time.monotonic() - began_s > max(QUEUE_PATIENCE_S, patience_s):
                raise ConnectionLost(path, f"its queue was full for {QUEUE_PATIENCE_S:g} s") from None
        except OSError as error:
            if error.errno not in NOT_THERE or time.monotonic() - began_s >= patience_s:
                raise
        else:
            return
        # So that those who came together do not come again together; the module random takes long to import.
        yield pause_s * (0.5 + os.urandom(1)[0] / 255)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
