# SPDX-License-Identifier: MIT
"""The verbs of a cache, blocking."""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from bcached.client.arguments import flags, several, socket_path
from bcached.client.attachment import SOCKET_PATH, SocketPath
from bcached.client.cache.memoizing import MISSING, check_options, memoized
from bcached.client.cache.objects import Objects, Stats
from bcached.client.cache.values.adding import adding
from bcached.client.cache.values.expiry import expiry_us, seconds_left, unexpired
from bcached.client.cache.values.names import Name, name_bytes, named_values
from bcached.client.cache.values.new_object import NewObject
from bcached.client.cache.values.serializers import RAW, Serializer, Values

P = ParamSpec("P")
T = TypeVar("T")


class Cache:
    """Objects by name, in one volume of a set, shared by all processes that open it.

    A value read is the last one stored or a miss: never another name's, never an older one after
    set(wait=True) has returned, never a part; each is verified by checksum and name. Space is reclaimed by
    the daemon, so any object may be gone at any time. Threads may share a cache; a forked child connects its
    own session with the first call. Its methods are the verbs, a line or two each.
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
        """Connects with the first call.

        volume: its label, or its inode. serializer: of values that are not bytes or str: "msgpack", "pickle"
        (only among trusted programs), or an object with dumps and loads. ignore_unavailable: without a daemon
        look-ups are misses and other calls do nothing, instead of ConnectionLost.
        """
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
        self._sessions = self._objects.sessions

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """What is unpickled or copied is a cache of its own, with the same options, and not connected yet."""
        return self._again, ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._objects.volume!r} at {self.path}>"

    def __enter__(self) -> Self:
        """Returns the cache, which connects with the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See close()."""
        self.close()

    # Reading

    def get(self, name: Name, default: Any = None) -> Any:
        """Returns the value; the default without one."""
        try:
            key = name.encode() if type(name) is str else name_bytes(name)
        except UnicodeEncodeError:
            key = name_bytes(name)  # which says more
        session = self._sessions.existing
        if session is not None:
            if (recalled := session.recall.known(key)) is not None:
                known, value = recalled
                self._objects.hits += 1
                return value if known.codec == RAW else self._values.decode(known.codec, value)
            if (placed := unexpired(session.placed.find(key))) is not None:
                self._objects.hits += 1
                return self._values.decode(placed.seal.codec, placed.value)
        found = self._objects.find_unknown(name_bytes(key))
        return default if found is None else self._values.decode(found.codec, found.value)

    def get_with_expiry(self, name: Name, default: Any = None) -> tuple[Any, float | None]:
        """Returns the value and the seconds until it expires, None for never; (default, None) without one."""
        found = self._objects.find(name_bytes(name))
        if found is None:
            return default, None
        return self._values.decode(found.codec, found.value), seconds_left(found.expires_at_us)

    def get_many(self, names: Iterable[Name]) -> dict[Name, Any]:
        """Returns the values that were found, by name."""
        wanted = list(several("names", names))
        found = self._objects.find_many([name_bytes(name) for name in wanted])
        pairs = zip(wanted, found, strict=True)
        return {name: self._values.decode(one.codec, one.value) for name, one in pairs if one is not None}

    def __contains__(self, name: Name) -> bool:
        """Whether there is a value."""
        return self._objects.find(name_bytes(name)) is not None

    __iter__ = None  # the daemon does not know names

    def __getitem__(self, name: Name) -> Any:
        """Returns the value. Raises KeyError without one."""
        value = self.get(name, MISSING)
        if value is MISSING:
            raise KeyError(name)
        return value

    # Storing

    def set(
        self,
        name: Name,
        value: Any,
        *,
        expire: float | None = None,
        wait: bool = False,
        durable: bool = False,
    ) -> None:
        """Store a value, in place of an earlier one.

        It returns when the value is written and its commit is sent or about to be: this process sees it at
        once, others within milliseconds. wait: return when all see it; durable: when it also survives a power
        cut. expire: seconds from now; an expired value is a miss. Raises ValueError for more than 64 MiB, or
        than the set can commit at once. A refusal by the daemon is raised by the call that waits, or by a
        later one that stores, or by flush().
        """
        if wait is not False or durable is not False:
            flags(wait=wait, durable=durable)
        self._objects.store(self._new(name, value, expire), wait=wait, durable=durable)

    def __setitem__(self, name: Name, value: Any) -> None:
        """Store a value that does not expire, as set() does."""
        self.set(name, value)

    def add(self, name: Name, value: Any, *, expire: float | None = None, durable: bool = False) -> bool:
        """Store a value if there is none, or an expired one; returns whether it was stored.

        Of several callers, of all processes, one stores.
        """
        flags(durable=durable)
        return self._objects.add(self._new(name, value, expire), durable=durable)

    def incr(self, name: Name, delta: Any = 1) -> Any:
        """Add to a value, which keeps its expiry; returns the sum. No caller overwrites another's sum.

        Raises KeyError without a value, TypeError for one that delta cannot be added to.
        """
        key = name_bytes(name)
        one = self._objects.change(key, adding(self._values, key, delta))
        if one is None:
            raise KeyError(name)
        return self._values.decode(one.codec, bytes(one.value))

    def set_many(
        self,
        values: Mapping[str, Any] | Mapping[bytes, Any] | Mapping[Name, Any] | Iterable[tuple[Name, Any]],
        *,
        expire: float | None = None,
        wait: bool = False,
    ) -> None:
        """Store several values; each is stored by itself."""
        flags(wait=wait)
        expiry_us(expire)
        pairs = named_values(values)
        self._objects.store_many((self._new(name, value, expire) for name, value in pairs), wait=wait)

    def touch(self, name: Name, expire: float | None = None) -> bool:
        """Change when a value expires, from now on, to never with None; returns whether it was there.

        Another process sees it when this returns. A value stored meanwhile keeps its own expiry.
        """
        return self._objects.touch(name_bytes(name), expiry_us(expire))

    def memoize(
        self, *, expire: float | None = None, typed: bool = False, name: str | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Returns a decorator that keeps a function's results, by what msgpack makes of its arguments.

        typed: arguments of different types are different. name: in place of the function's module and name,
        which functions that are made in one place share, although their variables differ. Raises TypeError
        for a lambda or an object without a name, a generator, and in a call for what msgpack does not hold.
        """
        check_options(expire, typed=typed)
        return lambda function: memoized(self, function, expire=expire, typed=typed, name=name)

    # Dropping

    def delete(self, name: Name) -> bool:
        """Drop a value; returns whether there was one, perhaps an expired one."""
        return self.delete_many((name,)) > 0

    def delete_many(self, names: Iterable[Name]) -> int:
        """Drop several values; returns how many there were."""
        return self._objects.drop([name_bytes(name) for name in several("names", names)])

    def __delitem__(self, name: Name) -> None:
        """Drop a value. Raises KeyError without one."""
        if not self.delete(name):
            raise KeyError(name)

    def pop(self, name: Name, default: Any = None) -> Any:
        """Drop a value and return it. Of several callers at the same time one gets it."""
        value = self.get(name, MISSING)
        return value if value is not MISSING and self.delete(name) else default

    def clear(self) -> None:
        """Drop all values, of all processes."""
        self._objects.drop_all()

    # The cache itself

    def flush(self, *, durable: bool = True) -> None:
        """Wait until all that was stored is visible to all processes and, with durable, survives a power cut.

        Raises ConnectionLost if objects were lost since the last flush, or the first refusal.
        """
        flags(durable=durable)
        self._objects.flush(durable=durable)

    def stats(self) -> Stats:
        """Returns what this cache has done since it was made."""
        return self._objects.stats()

    def close(self) -> None:
        """Wait until all that was stored is committed, and disconnect. Idempotent."""
        self._objects.close()

    # Inside

    def _new(self, name: Name, value: Any, expire: float | None) -> NewObject:
        return NewObject(name_bytes(name), *self._values.encode(value), expiry_us(expire))
