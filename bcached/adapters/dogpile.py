# SPDX-License-Identifier: MIT
"""A backend of dogpile.cache: make_region().configure("bcached", arguments={"volume": "thumbnails"})."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

from dogpile.cache.api import NO_VALUE, BackendArguments, BytesBackend, CacheMutex, SerializedReturnType

from bcached.adapters.dogpile_mutex import BcachedMutex
from bcached.adapters.shared_caches import shared_cache
from bcached.client.arguments import check_cache_arguments, flags, shown, utf8
from bcached.client.attachment import SOCKET_PATH
from bcached.client.cache.cache import Cache
from bcached.client.cache.values.expiry import expiry_us
from bcached.client.cache.values.names import Name
from bcached.errors import ClientClosed, ConnectionLost

T = TypeVar("T")
LONGEST_KEY_BYTES = 3900  # of names that have at most 4000 bytes
LOCK_TIMEOUT_S = 60.0
ARGUMENTS = {
    "path",
    "volume",
    "expire",
    "wait",
    "distributed_lock",
    "lock_timeout",
    "ignore_unavailable",
    "patience_s",
}


class BcachedBackend(BytesBackend):
    """Values of a region as objects of a volume, and a lock of each key that all processes see.

    Arguments, all optional:
    path: of the daemon's socket. volume: its label or inode; "dogpile".
    expire: seconds after which a value is dropped, whatever the region's expiration_time; never.
    wait: whether a value that was set is visible to all processes when set returns; True.
    distributed_lock: whether one of all processes creates a value, and not one of each; True.
    lock_timeout: seconds after which a lock is free although its holder did not release it, since it was
    killed; 60. None for never.
    ignore_unavailable: without a daemon look-ups are misses and other calls do nothing; False.
    patience_s: how long a call waits for a daemon; 0.
    """

    def __init__(self, arguments: BackendArguments) -> None:
        if unknown := arguments.keys() - ARGUMENTS:
            told = f"arguments of bcached are ignored: {sorted(unknown)} are none of {sorted(ARGUMENTS)}"
            warnings.warn(told, stacklevel=2)  # no error: dogpile.cache requires backends to ignore others
        self._path = arguments.get("path", SOCKET_PATH)
        self._volume = arguments.get("volume", "dogpile")
        self._patience_s = arguments.get("patience_s", 0.0)
        self._ignore_unavailable = arguments.get("ignore_unavailable", False)
        self._expire = arguments.get("expire")
        self._wait = arguments.get("wait", True)
        self._distributed_lock = arguments.get("distributed_lock", True)
        self._lock_timeout = arguments.get("lock_timeout", LOCK_TIMEOUT_S)
        check_cache_arguments(self._path, self._volume, self._patience_s)
        flags(
            wait=self._wait,
            distributed_lock=self._distributed_lock,
            ignore_unavailable=self._ignore_unavailable,
        )
        expiry_us(self._expire)
        expiry_us(self._lock_timeout, "lock_timeout")

    # Values

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Returns the value's bytes, or NO_VALUE."""
        found: SerializedReturnType = self._run(lambda cache: cache.get(_name(key), NO_VALUE), NO_VALUE)
        return found

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """Returns for each key its value's bytes, or NO_VALUE."""
        names = [_name(key) for key in keys]
        found: dict[Name, bytes] = self._run(lambda cache: cache.get_many(names), {})
        return [found.get(name, NO_VALUE) for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store a value."""
        self._run(lambda cache: cache.set(_name(key), value, expire=self._expire, wait=self._wait), None)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store several values."""
        values = {_name(key): value for key, value in mapping.items()}
        self._run(lambda cache: cache.set_many(values, expire=self._expire, wait=self._wait), None)

    def delete(self, key: str) -> None:
        """Drop a value, if there is one."""
        self._run(lambda cache: cache.delete(_name(key)), False)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Drop several values."""
        names = [_name(key) for key in keys]
        self._run(lambda cache: cache.delete_many(names), 0)

    # Locks

    def get_mutex(self, key: str) -> CacheMutex | None:
        """Returns the key's lock; None if dogpile is to take one of this process."""
        return BcachedMutex(self, key) if self._distributed_lock else None

    def has_lock_timeout(self) -> bool:
        """Whether a value that takes long may be created by two callers at once."""
        return self._distributed_lock and self._lock_timeout is not None

    def add_lock(self, key: str, token: bytes) -> bool:
        """Store the token if the key's lock has none; returns whether it did, or there is no daemon."""
        return self._run(lambda cache: cache.add(_lock_name(key), token, expire=self._lock_timeout), True)

    def lock_token(self, key: str) -> bytes | None:
        """Returns the token of the holder of the key's lock."""
        found: bytes | None = self._run(lambda cache: cache.get(_lock_name(key)), None)
        return found

    def drop_lock(self, key: str) -> None:
        """Drop the token. What its holder has stored before is visible before that."""
        self._run(lambda cache: cache.delete(_lock_name(key)), False)

    def _run(self, work: Callable[[Cache], T], unavailable: T) -> T:
        """Returns what the work does with the cache, which itself does not ignore that there is no daemon.

        An add that did nothing could not be told from a lock that is held, and a caller would wait for ever.
        """
        cache = shared_cache(self._path, self._volume, serializer="msgpack", patience_s=self._patience_s)
        try:
            return work(cache)
        except ConnectionLost as error:
            if self._ignore_unavailable and not isinstance(error, ClientClosed):
                return unavailable
            raise


def _name(key: str) -> bytes:
    """Returns the name of a key's value. A key that is too long for a name is hashed."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {shown(key)}")
    name = utf8("a key", key)
    return name if len(name) <= LONGEST_KEY_BYTES else b"\0long\0" + blake2b(name, digest_size=32).digest()


def _lock_name(key: str) -> bytes:
    return b"\0lock\0" + _name(key)
