# SPDX-License-Identifier: MIT
"""Results of a function, kept by its arguments."""

import functools
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

P = ParamSpec("P")
T = TypeVar("T")
MISSING = object()
COROUTINE = 0x80  # inspect.CO_COROUTINE; inspect takes long to import


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


def memoized(
    cache: Keeping, function: Callable[P, T], *, expire: float | None, typed: bool, name: str | None
) -> Callable[P, T]:
    """Returns the function, called only for arguments whose result is not in the cache.

    Raises TypeError for a coroutine function, whose result is a coroutine.
    """
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & COROUTINE:
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


def _prefix(function: Callable[..., Any], name: str | None) -> bytes:
    return (name or f"{function.__module__}.{function.__qualname__}").encode()


def call_name(prefix: bytes, arguments: tuple[Any, ...], named: dict[str, Any], *, typed: bool) -> bytes:
    """Returns the name of a call. Raises TypeError for arguments that msgpack does not hold."""
    items = sorted(named.items())
    parts: list[Any] = [arguments, items]
    if typed:
        parts.append([type(one).__qualname__ for one in (*arguments, *(value for _, value in items))])
    packed = msgspec.msgpack.encode(parts)
    return prefix + b"\0" + blake2b(packed, digest_size=24).digest()
