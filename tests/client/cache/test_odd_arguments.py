# SPDX-License-Identifier: GPL-2.0-only
"""What a caller passes to a cache by mistake is refused before anything is stored; the cache goes on."""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from bcached.client import AsyncCache, Cache
from instruments.clients.daemon_process import DaemonProcess
from instruments.samples.odd_arguments import CONSTRUCTORS, HUGE, NO_FLAG, NO_NUMBER, SURROGATE, Case, of

OF_CACHES: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[
        ({"ignore_unavailable": one}, TypeError, "ignore_unavailable is True or False")
        for one in (*NO_FLAG, None)
    ],
    *[({"volume": one}, TypeError, "label .* or its inode") for one in (None, True, b"x", 1.0, math.nan)],
    *[({"volume": one}, ValueError, "0 to 1048575") for one in (-1, 1 << 20, HUGE)],
    *[({"volume": one}, ValueError, "1 to 32 bytes") for one in ("", "l" * 33, "ü" * 17, "a\0")],
    ({"volume": SURROGATE}, ValueError, "text that UTF-8 has"),
    *[({"serializer": one}, TypeError, "dumps and loads") for one in (None, 5, b"pickle")],
    ({"serializer": "yaml"}, ValueError, "no serializer"),
]


def verbs() -> Iterator[Case]:
    """Calls of a cache with one wrong argument."""
    return chain(no_names(), not_several(), no_times_and_flags(), no_values())


def no_names() -> Iterator[Case]:
    name: Any
    for name in (5, None, 1.0, ["a"], ("a",), bytearray(b"a"), memoryview(b"a")):
        said = "a name is str or bytes, not "
        for method in ("get", "get_with_expiry", "delete", "pop", "touch", "incr"):
            yield of(method, TypeError, said, name)
        for method in ("set", "add"):
            yield of(method, TypeError, said, name, 1)
        for method in ("get_many", "delete_many"):
            yield of(method, TypeError, said, ["a", name])
        yield of("set_many", TypeError, said, [(name, 1)])
    for name, said in ((SURROGATE, "a name is text that UTF-8 has"), ("n" * 4001, "at most 4000 bytes")):
        for method in ("get", "delete", "pop", "touch", "incr"):
            yield of(method, ValueError, said, name)
        for method in ("set", "add"):
            yield of(method, ValueError, said, name, 1)
        yield of("get_many", ValueError, said, [name])
        yield of("set_many", ValueError, said, {"kept": "changed", name: 1})


def not_several() -> Iterator[Case]:
    one: Any
    for one in (None, 5, "names", b"names"):
        yield of("get_many", TypeError, "expected several names, found", one)
        yield of("delete_many", TypeError, "expected several names, found", one)
        yield of("set_many", TypeError, "expected several pairs", one)
    for one in (5, "ab", ("a",), ("a", 1, 2), None):
        yield of("set_many", TypeError, "expected a pair of a name and a value, found", [one])


def no_times_and_flags() -> Iterator[Case]:
    for one in NO_NUMBER:
        said = "expire is a number of seconds, not"
        yield of("set", TypeError, said, "kept", 1, expire=one)
        yield of("add", TypeError, said, "new", 1, expire=one)
        yield of("touch", TypeError, said, "kept", one)
        yield of("set_many", TypeError, said, {}, expire=one)
        yield of("memoize", TypeError, said, expire=one)
    for one in (math.nan, -math.inf, -HUGE):
        said = "expire is a number of seconds, not"
        yield of("set", ValueError, said, "kept", 1, expire=one)
        yield of("touch", ValueError, said, "kept", one)
        yield of("set_many", ValueError, said, {}, expire=one)
        yield of("memoize", ValueError, said, expire=one)
    for one in (*NO_FLAG, None):
        yield of("set", TypeError, "wait is True or False, not", "kept", 1, wait=one)
        yield of("set", TypeError, "durable is True or False, not", "kept", 1, durable=one)
        yield of("add", TypeError, "durable is True or False, not", "new", 1, durable=one)
        yield of("set_many", TypeError, "wait is True or False, not", {"kept": 1}, wait=one)
        yield of("flush", TypeError, "durable is True or False, not", durable=one)
        yield of("memoize", TypeError, "typed is True or False, not", typed=one)


def no_values() -> Iterator[Case]:
    for one in (object(), lambda: 1, {1: object()}):
        yield of("set", TypeError, "unsupported", "kept", one)
    yield of("set", OverflowError, r"2\*\*64|too big", "kept", 1 << 64)
    yield of("set", ValueError, "a str value is text that UTF-8 has", "kept", SURROGATE)
    yield of("incr", TypeError, "concatenate", "kept", 1)


@pytest.mark.parametrize("kind", [Cache, AsyncCache])
@pytest.mark.parametrize(("named", "error", "said"), CONSTRUCTORS + OF_CACHES)
def test_no_cache_is_made_with_what_it_cannot_use(
    kind: Any, named: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        kind(**named)


def test_no_verb_of_a_cache_takes_what_it_cannot_use(daemon: DaemonProcess) -> None:
    with Cache(daemon.socket_path, "arguments") as cache:
        cache.set("kept", "value", wait=True)
        for case in verbs():
            method, arguments, named, kind, said = case
            with pytest.raises(kind, match=said):
                getattr(cache, method)(*arguments, **named)
            assert cache.get("new") is None
            assert cache.get_with_expiry("kept") == ("value", None), case


async def test_no_verb_of_an_async_cache_does(daemon: DaemonProcess) -> None:
    async with AsyncCache(daemon.socket_path, "arguments too") as cache:
        await cache.set("kept", "value", wait=True)
        for method, arguments, named, kind, said in verbs():
            with pytest.raises(kind, match=said):
                await getattr(cache, method)(*arguments, **named)
            assert await cache.get_with_expiry("kept") == ("value", None)


def test_an_empty_name_is_a_name_and_infinity_is_never(daemon: DaemonProcess) -> None:
    with Cache(daemon.socket_path, "empty", patience_s=math.inf) as cache:
        cache.set("", 5, expire=math.inf, wait=True)
        assert cache[b""] == 5
        assert cache.delete_many(iter([""])) == 1
