# SPDX-License-Identifier: MIT
"""A backend of Django's cache: CACHES = {"default": {"BACKEND": "bcached.adapters.django.BcachedCache"}}."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from bcached.adapters.shared_caches import shared_cache
from bcached.client.arguments import check_cache_arguments, flags, shown, utf8
from bcached.client.attachment import SOCKET_PATH, SocketPath
from bcached.client.cache.cache import Cache
from bcached.client.cache.values.names import NAME_BYTES_MAX
from bcached.client.cache.values.serializers import Values

# The first two are Django's, for caches that cull by themselves; here the daemon reclaims space.
OPTIONS = {
    "MAX_ENTRIES",
    "CULL_FREQUENCY",
    "volume",
    "serializer",
    "wait",
    "ignore_unavailable",
    "patience_s",
}


class BcachedCache(BaseCache):
    """Values as objects of a volume, shared by all processes of a host; its methods are Django's.

    LOCATION is the path of the daemon's socket. OPTIONS, all optional:
    volume: its label or inode; "django".
    wait: whether a value that was set is visible to all processes when set returns; True.
    serializer: "pickle" (only among trusted programs), "msgpack", or the dotted path of a module or an object
    with dumps and loads; "pickle".
    ignore_unavailable: without a daemon look-ups are misses and other calls do nothing; False.
    patience_s: how long a call waits for a daemon; 0.

    close(), which Django calls after each request, does nothing: the connection is the process's.
    """

    def __init__(self, location: SocketPath, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        if unknown := options.keys() - OPTIONS:
            raise ImproperlyConfigured(f"OPTIONS of a cache: {sorted(unknown)} are none of {sorted(OPTIONS)}")
        if not isinstance(location, str | os.PathLike):
            raise ImproperlyConfigured(f"LOCATION of a cache is the path of one socket, not {location!r}")
        self._path = location or SOCKET_PATH
        self._volume = options.get("volume", "django")
        self._serializer = _serializer(options.get("serializer", "pickle"))
        self._wait = options.get("wait", True)
        self._ignore_unavailable = options.get("ignore_unavailable", False)
        self._patience_s = options.get("patience_s", 0.0)
        try:
            check_cache_arguments(self._path, self._volume, self._patience_s)
            flags(wait=self._wait, ignore_unavailable=self._ignore_unavailable)
            Values(self._serializer)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"OPTIONS of a cache: {error}") from None

    # Keys and timeouts

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Returns the seconds until a value expires, 0 or less for at once, None for never."""
        seconds: float | None = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | None):
            raise TypeError(f"a timeout is a number of seconds, or None for never, not {shown(seconds)}")
        return seconds

    def validate_key(self, key: str) -> None:
        """Warn of what memcached refuses. Raises InvalidCacheKey if it is too long for this backend."""
        super().validate_key(key)
        try:
            length = len(utf8("a key", key))
        except ValueError as error:
            raise InvalidCacheKey(str(error)) from None
        if length > NAME_BYTES_MAX:
            raise InvalidCacheKey(
                f"a key with prefix and version has at most {NAME_BYTES_MAX} bytes, "
                f"this one {length}: {key[:50]!r}..."
            )

    # Verbs

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Returns the value, or the default."""
        return self._cache.get(self.make_and_validate_key(key, version=version), default)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Whether there is a value."""
        return self.make_and_validate_key(key, version=version) in self._cache

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Returns the values that were found, by key; a thousand keys take one round trip."""
        by_name = {self.make_and_validate_key(key, version=version): key for key in keys}
        return {by_name[name]: value for name, value in self._cache.get_many(by_name).items()}

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        name, expire = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        if expire is not None and expire <= 0:
            self._cache.delete(name)
        else:
            self._cache.set(name, self._storable(value), expire=expire, wait=self._wait)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if there is none, for all processes; returns whether it was stored."""
        name, expire = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        if expire is not None and expire <= 0:
            return name not in self._cache
        return self._cache.add(name, self._storable(value), expire=expire)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store several values; returns an empty list, since what was not stored is raised."""
        expire = self.get_backend_timeout(timeout)
        values = {
            self.make_and_validate_key(key, version=version): self._storable(value)
            for key, value in data.items()
        }
        if expire is not None and expire <= 0:
            self._cache.delete_many(values)
        else:
            self._cache.set_many(values, expire=expire, wait=self._wait)
        return []

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Change when a value expires; returns whether there is one."""
        name, expire = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        is_over = (
            expire is not None and expire <= 0
        )  # by however much, which Cache refuses from 1e9 seconds on
        return self._cache.touch(name, 0 if is_over else expire)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Returns the value with delta added, which keeps its expiry. Raises ValueError without a value."""
        name = self.make_and_validate_key(key, version=version)
        try:
            return self._cache.incr(name, delta)
        except KeyError:
            raise ValueError(f"Key '{key}' not found") from None

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Drop a value; returns whether there was one."""
        return self._cache.delete(self.make_and_validate_key(key, version=version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Drop several values."""
        self._cache.delete_many([self.make_and_validate_key(key, version=version) for key in keys])

    def clear(self) -> None:
        """Drop all values of the volume, of whatever prefix and version."""
        self._cache.clear()

    # Asynchronous verbs that take one step here, and several in the base class

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """See incr()."""
        return await sync_to_async(self.incr, thread_sensitive=True)(key, delta, version)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """See get_many()."""
        found: dict[Any, Any] = await sync_to_async(self.get_many, thread_sensitive=True)(keys, version)
        return found

    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - of the values
        version: int | None = None,
    ) -> list[Any]:
        """See set_many()."""
        await sync_to_async(self.set_many, thread_sensitive=True)(data, timeout, version)
        return []

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """See delete_many()."""
        await sync_to_async(self.delete_many, thread_sensitive=True)(keys, version)

    def _storable(self, value: Any) -> Any:
        is_pickled = type(value) is bytearray and self._serializer == "pickle"
        return _Bytearray(value) if is_pickled else value

    @property
    def _cache(self) -> Cache:
        return shared_cache(
            self._path,
            self._volume,
            serializer=self._serializer,
            ignore_unavailable=self._ignore_unavailable,
            patience_s=self._patience_s,
        )


def _serializer(named: Any) -> Any:
    """Returns what Cache takes as a serializer, imported if it is a dotted path."""
    return import_string(named) if isinstance(named, str) and "." in named else named


class _Bytearray(bytearray):
    """A bytearray that Cache pickles, so that it comes back as one and not as bytes."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[bytearray], tuple[bytes]]:
        return bytearray, (bytes(self),)
