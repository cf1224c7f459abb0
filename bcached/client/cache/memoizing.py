# SPDX-License-Identifier: MIT
"""Results of a function, kept by its arguments."""

import functools
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

from bcached.client.arguments import flags, shown
from bcached.client.cache.values.expiry import expiry_us
from bcached.client.cache.values.names import name_bytes

P = ParamSpec("P")
T = TypeVar("T")
MISSING = object()
# Flags of code, inspect.CO_COROUTINE and so on; inspect takes long to import.
GENERATOR, COROUTINE, ASYNC_GENERATOR = 0x20, 0x80, 0x200
DIGEST_BYTES = 24


class Keeping(Protocol):
    """A cache."""

    def get(self, name: str | bytes, default: Any = None) -> Any:
        """Returns the value, or the default."""

    def set(self, name: str | bytes, value: Any, *, expire: float | None = None) -> None:
        """Store a value."""


class AwaitableKeeping(Protocol):
    """A cache for asyncio."""

    async def get(self, name: str | bytes, default: Any = None) -> Any:
        """Returns the value, or the default."""

    async def set(self, name: str | bytes, value: Any, *, expire: float | None = None) -> None:
        """Store a value."""


def check_options(expire: float | None, *, typed: bool) -> None:
    """Raises TypeError or ValueError for options that no call could use."""
    expiry_us(expire)
    flags(typed=typed)


def memoized(
    cache: Keeping, function: Callable[P, T], *, expire: float | None, typed: bool, name: str | None
) -> Callable[P, T]:
    """Returns the function, called only for arguments whose result is not in the cache.

    Raises TypeError for a function that has no name, or whose result is a coroutine or a generator.
    """
    if _flags(function) & COROUTINE:
        raise TypeError(f"{function!r} is a coroutine function: memoize it with AsyncCache")
    prefix = _prefix(function, name)

    @functools.wraps(function)
    def remembering(*arguments: P.args, **named: P.kwargs) -> T:
        key = call_name(prefix, arguments, named, typed=typed)
        result = cache.get(key, MISSING)
        if result is MISSING:
            result = function(*arguments, **named)
            cache.set(key, result, expire=expire)
        remembered: T = result
        return remembered

    return remembering


def memoized_coroutine(
    cache: AwaitableKeeping,
    function: Callable[P, Awaitable[T]],
    *,
    expire: float | None,
    typed: bool,
    name: str | None,
) -> Callable[P, Awaitable[T]]:
    """Returns the coroutine function, called only for arguments whose result is not in the cache."""
    prefix = _prefix(function, name)

    @functools.wraps(function)
    async def remembering(*arguments: P.args, **named: P.kwargs) -> T:
        key = call_name(prefix, arguments, named, typed=typed)
        result = await cache.get(key, MISSING)
        if result is MISSING:
            result = await function(*arguments, **named)
            await cache.set(key, result, expire=expire)
        remembered: T = result
        return remembered

    return remembering


def _flags(function: Callable[..., Any]) -> int:
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags


def _prefix(function: Callable[..., Any], name: str | None) -> bytes:
    """Returns what the names of all calls begin with.

    Raises TypeError for a generator, which has no result to keep, and without a name that only this function
    has: all lambdas of a scope have one, and would have each other's results.
    """
    if _flags(function) & (GENERATOR | ASYNC_GENERATOR):
        raise TypeError(f"{function!r} is a generator function: memoize one that returns a list")
    if not isinstance(name, str | None):
        raise TypeError(f"the name of a function is a str, not {shown(name)}")
    qualified = getattr(function, "__qualname__", "")
    if not name and (not qualified or qualified.endswith("<lambda>")):
        raise TypeError(f"{function!r} has no name of its own: memoize(name=...)")
    prefix = name_bytes(name or f"{function.__module__}.{qualified}") + b"\0"
    name_bytes(prefix + bytes(DIGEST_BYTES))  # not too long
    return prefix


def _packed(parts: list[Any]) -> bytes:
    """Returns the same bytes for the same arguments in all processes: a set of str has an order in each."""
    try:
        return msgspec.msgpack.encode(parts, order="deterministic")
    except TypeError:  # not for a dict with other keys than str, or a set of several types
        return msgspec.msgpack.encode(parts)


def call_name(prefix: bytes, arguments: tuple[Any, ...], named: dict[str, Any], *, typed: bool) -> bytes:
    """Returns the name of a call. Raises TypeError for arguments that msgpack does not hold."""
    items = sorted(named.items())
    parts: list[Any] = [arguments, items]
    if typed:
        parts.append([type(one).__qualname__ for one in (*arguments, *(value for _, value in items))])
    return prefix + blake2b(_packed(parts), digest_size=DIGEST_BYTES).digest()
