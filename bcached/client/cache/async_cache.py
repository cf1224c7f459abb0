# SPDX-License-Identifier: MIT
"""The verbs of a cache, for asyncio."""

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from bcached.client.arguments import flags, several, socket_path
from bcached.client.attachment import SOCKET_PATH, SocketPath
from bcached.client.cache.hop import in_thread
from bcached.client.cache.memoizing import MISSING, check_options, memoized_coroutine
from bcached.client.cache.objects import Objects, Stats
from bcached.client.cache.shared_hops import SharedHops
from bcached.client.cache.values.adding import adding
from bcached.client.cache.values.expiry import expiry_us, seconds_left
from bcached.client.cache.values.names import Name, name_bytes, named_values
from bcached.client.cache.values.new_object import FoundObject, NewObject
from bcached.client.cache.values.serializers import Serializer, Values
from bcached.client.data.data_paths import read_cached
from bcached.client.data.scattered_reads import LONG_BYTES
from bcached.client.forks import end_in_children
from bcached.errors import ClientClosed

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
AT_ONCE_BYTES = LONG_BYTES  # copied and checked in the event loop, in some 30 microseconds


class AsyncCache:
    """Objects by name, as `Cache` has them, with the same verbs as coroutines.

    An object that is known and in memory is returned without leaving the event loop; all that may wait, for
    the daemon or a device, is done in threads. A call that is cancelled may still be carried out. `in` and
    `[]` cannot wait: use contains() and get().
    """

    def __init__(
        self,
        path: SocketPath = SOCKET_PATH,
        volume: str | int = "cache",
        *,
        serializer: str | Serializer = "msgpack",
        ignore_unavailable: bool = False,
        patience_s: float = 0.0,
    ) -> None:
        """Connects with the first call. The parameters are those of Cache."""
        self.path = socket_path(path)
        self._again = functools.partial(
            type(self),
            self.path,
            volume,
            serializer=serializer,
            ignore_unavailable=ignore_unavailable,
            patience_s=patience_s,
        )
        self._values = Values(serializer)
        self._objects = Objects(self.path, volume, patience_s, ignore_unavailable=ignore_unavailable)
        self._stores = SharedHops(self._objects.store, self._threads)  # which do not wait for an answer
        self._pool: ThreadPoolExecutor | None = None  # made when first needed, once in each process

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """What is unpickled or copied is a cache of its own, with the same options, and not connected yet."""
        return self._again, ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._objects.volume!r} at {self.path}>"

    async def __aenter__(self) -> Self:
        """Returns the cache, which connects with the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See close()."""
        await self.close()

    # Reading

    async def get(self, name: Name, default: Any = None) -> Any:
        """Returns the value; the default without one."""
        found = await self._find(name_bytes(name))
        return default if found is None else self._values.decode(found.codec, found.value)

    async def get_with_expiry(self, name: Name, default: Any = None) -> tuple[Any, float | None]:
        """Returns the value and the seconds until it expires, None for never; (default, None) without one."""
        found = await self._find(name_bytes(name))
        if found is None:
            return default, None
        return self._values.decode(found.codec, found.value), seconds_left(found.expires_at_us)

    async def get_many(self, names: Iterable[Name]) -> dict[Name, Any]:
        """Returns the values that were found, by name."""
        wanted = [(name, name_bytes(name)) for name in several("names", names)]
        found = {name: self._recall(key) for name, key in wanted}
        unknown = [(name, key) for name, key in wanted if found[name] is None]
        if unknown:
            others = await self._in_thread(self._objects.find_many, [key for _, key in unknown])
            found.update(zip([name for name, _ in unknown], others, strict=True))
        return {
            name: self._values.decode(one.codec, one.value) for name, one in found.items() if one is not None
        }

    async def contains(self, name: Name) -> bool:
        """Whether there is a value."""
        return await self._find(name_bytes(name)) is not None

    # Storing

    async def set(
        self,
        name: Name,
        value: Any,
        *,
        expire: float | None = None,
        wait: bool = False,
        durable: bool = False,
    ) -> None:
        """Store a value, in place of an earlier one. See Cache.set."""
        flags(wait=wait, durable=durable)
        one = self._new(name, value, expire)
        if wait or durable:
            await self._in_thread(self._objects.store, one, wait=wait, durable=durable)
        else:
            await self._stores.make(one)

    async def add(
        self, name: Name, value: Any, *, expire: float | None = None, durable: bool = False
    ) -> bool:
        """Store a value if there is none, for all processes; returns whether it was stored."""
        flags(durable=durable)
        return await self._in_thread(self._objects.add, self._new(name, value, expire), durable=durable)

    async def incr(self, name: Name, delta: Any = 1) -> Any:
        """Add to a value, which keeps its expiry; returns the sum. No caller overwrites another's sum.

        Raises KeyError without a value, TypeError for one that delta cannot be added to.
        """
        key = name_bytes(name)
        one = await self._in_thread(self._objects.change, key, adding(self._values, key, delta))
        if one is None:
            raise KeyError(name)
        return self._values.decode(one.codec, bytes(one.value))

    async def set_many(
        self,
        values: Mapping[str, Any] | Mapping[bytes, Any] | Mapping[Name, Any] | Iterable[tuple[Name, Any]],
        *,
        expire: float | None = None,
        wait: bool = False,
    ) -> None:
        """Store several values; each is stored by itself."""
        flags(wait=wait)
        expiry_us(expire)
        ones = [self._new(name, value, expire) for name, value in named_values(values)]
        await self._in_thread(self._objects.store_many, ones, wait=wait)

    async def touch(self, name: Name, expire: float | None = None) -> bool:
        """Change when a value expires, to never with None; returns whether it was there. See Cache.touch."""
        return await self._in_thread(self._objects.touch, name_bytes(name), expiry_us(expire))

    def memoize(
        self, *, expire: float | None = None, typed: bool = False, name: str | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """Returns a decorator that keeps the results of a coroutine function. See Cache.memoize."""
        check_options(expire, typed=typed)
        return lambda function: memoized_coroutine(self, function, expire=expire, typed=typed, name=name)

    # Dropping

    async def delete(self, name: Name) -> bool:
        """Drop a value; returns whether there was one, perhaps an expired one."""
        return await self.delete_many((name,)) > 0

    async def delete_many(self, names: Iterable[Name]) -> int:
        """Drop several values; returns how many there were."""
        return await self._in_thread(
            self._objects.drop, [name_bytes(name) for name in several("names", names)]
        )

    async def pop(self, name: Name, default: Any = None) -> Any:
        """Drop a value and return it. Of several callers at the same time one gets it."""
        value = await self.get(name, MISSING)
        return value if value is not MISSING and await self.delete(name) else default

    async def clear(self) -> None:
        """Drop all values, of all processes."""
        await self._in_thread(self._objects.drop_all)

    # The cache itself

    async def flush(self, *, durable: bool = True) -> None:
        """Wait until all that was stored is visible to all processes or, with durable, survives a power cut.

        Raises ConnectionLost if objects were lost since the last flush, or the first refusal.
        """
        flags(durable=durable)
        await self._in_thread(self._objects.flush, durable=durable)

    def stats(self) -> Stats:
        """Returns what this cache has done since it was made."""
        return self._objects.stats()

    async def close(self) -> None:
        """Wait until all that was stored is committed, and disconnect. Idempotent."""
        if self._objects.sessions.is_closed:
            return
        try:
            await self._in_thread(self._objects.close)
        finally:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.shutdown(wait=False)  # its threads end with their last calls, which raise ClientClosed

    # Inside

    def end_in_child(self) -> None:
        """In a child process: begin without threads."""
        self._pool = None
        self._stores = SharedHops(self._objects.store, self._threads)

    def _new(self, name: Name, value: Any, expire: float | None) -> NewObject:
        return NewObject(name_bytes(name), *self._values.encode(value), expiry_us(expire))

    def _recall(self, name: bytes) -> FoundObject | None:
        objects = self._objects
        return objects.recall(name, read_cached, AT_ONCE_BYTES) or objects.recall_placed(name, read_cached)

    async def _find(self, name: bytes) -> FoundObject | None:
        found = self._recall(name)
        return found if found is not None else await self._in_thread(self._objects.find, name)

    async def _in_thread(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await in_thread(self._threads(), functools.partial(call, *arguments, **named))

    def _threads(self) -> ThreadPoolExecutor:
        if self._objects.sessions.is_closed:
            raise ClientClosed(self.path)
        if self._pool is None:
            end_in_children(self)
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bcached-cache")
        return self._pool
