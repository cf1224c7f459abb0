# SPDX-License-Identifier: MIT
"""A lock that all processes on a volume see."""

import os
import time
from random import Random
from typing import Protocol

from dogpile.cache.api import CacheMutex

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05

_random = Random()  # noqa: S311 - so that waiters do not all come back at once


class LockStore(Protocol):
    """What a mutex is kept in."""

    def add_lock(self, key: str, token: bytes) -> bool:
        """Store the token if the key has none; returns whether it did."""

    def lock_token(self, key: str) -> bytes | None:
        """Returns the token of the key's holder."""

    def drop_lock(self, key: str) -> None:
        """Drop the key's token."""


class BcachedMutex(CacheMutex):
    """A mutex of one key.

    Of all processes one holds it, unless its space is reclaimed, as any object's may be: that costs a value
    that is created twice.
    """

    def __init__(self, store: LockStore, key: str) -> None:
        self._store = store
        self._key = key
        self._token = b""

    def acquire(self, wait: bool = True) -> bool:
        """Returns whether this caller holds it now; with wait, once it does."""
        pause_s = FIRST_PAUSE_S
        while not self._try():
            if not wait:
                return False
            time.sleep(pause_s * _random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return True

    def _try(self) -> bool:
        token = os.urandom(16)
        # The look-up takes no request while the lock is unchanged; adding writes to the device.
        if self.locked() or not self._store.add_lock(self._key, token):
            return False
        self._token = token
        return True

    def release(self) -> None:
        """Release it, in any thread; not one that expired and has another holder now."""
        token, self._token = self._token, b""
        if self._store.lock_token(self._key) == token:
            self._store.drop_lock(self._key)

    def locked(self) -> bool:
        """Whether any process holds it."""
        return self._store.lock_token(self._key) is not None
