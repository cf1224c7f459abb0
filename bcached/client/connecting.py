"""Connecting to a Unix socket without holding the event loop, however many do so at once.

A blocking connect waits while the listener's queue is full; one that does not block fails with EAGAIN then,
and nothing tells when there is room. asyncio takes that for a connection under way, and then for one that
stands. So the attempt is made again, less and less often, until the queue has been full for too long.
"""

import asyncio
import errno
import socket
import time
from random import Random

from bcached.errors import ConnectionLost

QUEUE_PATIENCE_S = 10.0  # with a daemon that is there and does not come to accepting
FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
NOT_THERE = (errno.ENOENT, errno.ECONNREFUSED)

_random = Random()  # noqa: S311  # so that those who came together do not come again together


async def connect(path: str, patience_s: float = 0.0) -> socket.socket:
    """A connected socket; patience_s is how long a daemon that is not there, or not yet, is waited for."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        await _try_until_connected(connecting, path, patience_s)
    except OSError as error:
        connecting.close()
        raise ConnectionLost(path, error.strerror or str(error)) from None
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _try_until_connected(connecting: socket.socket, path: str, patience_s: float) -> None:
    began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:  # the queue is full
            if time.monotonic() - began_s > max(QUEUE_PATIENCE_S, patience_s):
                raise ConnectionLost(path, f"its queue was full for {QUEUE_PATIENCE_S:g} s") from None
        except OSError as error:
            if error.errno not in NOT_THERE or time.monotonic() - began_s >= patience_s:
                raise
        else:
            return
        await asyncio.sleep(pause_s * _random.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
