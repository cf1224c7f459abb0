# SPDX-License-Identifier: MIT
"""One Cache for all backends of this process that use the same volume in the same way.

Django makes a backend for each thread, dogpile one for each region: each with a connection of its own would
lease buckets of its own.
"""

import atexit
import os
from contextlib import suppress

from bcached.client import Cache
from bcached.client.attachment import SocketPath
from bcached.client.cache.values.serializers import Serializer
from bcached.errors import ConnectionLost

_caches: dict[tuple[object, ...], Cache] = {}


def shared_cache(
    path: SocketPath,
    volume: str | int,
    *,
    serializer: str | Serializer,
    ignore_unavailable: bool = False,
    patience_s: float = 0.0,
) -> Cache:
    """Returns the cache of these options. It connects with its first call, in a forked child once more."""
    options = (os.fspath(path), volume, serializer, ignore_unavailable, patience_s)
    cache = _caches.get(options)
    if cache is not None:
        return cache
    made = Cache(
        path, volume, serializer=serializer, ignore_unavailable=ignore_unavailable, patience_s=patience_s
    )
    return _caches.setdefault(options, made)  # atomic: a lock could be held in the parent of a forked child


@atexit.register
def close_shared_caches() -> None:
    """Close all of them; a backend that is used afterwards opens another one."""
    while _caches:
        _, cache = _caches.popitem()
        with suppress(ConnectionLost):
            cache.close()
