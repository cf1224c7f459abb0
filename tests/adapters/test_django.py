# SPDX-License-Identifier: GPL-2.0-only
"""The backend of Django's cache: what Django documents of each backend, on a real daemon."""

import datetime
import decimal
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.core.cache import CacheHandler, CacheKeyWarning, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.utils.safestring import SafeString, mark_safe

from bcached.adapters.django import BcachedCache
from bcached.adapters.shared_caches import close_shared_caches
from bcached.client import Cache
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess

Open = Callable[..., Any]


def label_of(test: str) -> str:
    return md5(test.encode()).hexdigest()  # a volume's label has at most 32 bytes


@pytest.fixture
def opened(daemon: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a backend on a volume of the test's own, as Django does: from an entry of CACHES."""

    def open_one(options: dict[str, object] | None = None, **settings: object) -> Any:
        entry = {
            "BACKEND": "bcached.adapters.django.BcachedCache",
            "LOCATION": str(daemon.socket_path),
            "OPTIONS": {"volume": label_of(request.node.name), **(options or {})},
            **settings,
        }
        return CacheHandler({"default": entry})["default"]

    yield open_one
    close_shared_caches()


@pytest.fixture
def cache(opened: Open) -> Any:
    return opened()


VALUES = [
    "text",
    b"bytes",
    bytearray(b"array"),
    "",
    b"",
    None,
    True,
    0,
    -(2**70),
    2.5,
    decimal.Decimal("1.10"),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    [1, [2]],
    (1, (2,)),
    {1: "a", "b": (3,)},
    {4, 5},
    ValueError("kept"),
    "ascii ünïcode ヂヂ",
    b"x" * 1_000_000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{len(repr(value))}")
def test_a_value_comes_back_as_it_was(cache: Any, value: object) -> None:
    cache.set("key", value)
    for got in (cache.get("key", "missing"), cache.get_many(["key"])["key"]):
        assert type(got) is type(value)
        assert repr(got) == repr(value)
    assert cache.add("added", value)
    assert repr(cache.get("added", "missing")) == repr(value)
    cache.set_many({"many": value})
    assert repr(cache.get("many", "missing")) == repr(value)


def test_a_subclass_of_str_stays_one(cache: Any) -> None:
    cache.set("key", mark_safe("<b>"))
    assert type(cache.get("key")) is SafeString


def test_what_cannot_be_pickled_is_refused(cache: Any) -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        cache.set("key", lambda: None)
    assert cache.get("key") is None


def test_a_value_that_was_got_can_be_changed(cache: Any) -> None:
    value = {"a": [1]}
    cache.set("key", value)
    value["a"].append(2)
    cache.get("key")["a"].append(3)
    assert cache.get("key") == {"a": [1]}


def test_get_and_default(cache: Any) -> None:
    assert cache.get("key") is None
    assert cache.get("key", "default") == "default"
    cache.set("none", None)
    assert cache.get("none", "default") is None
    assert cache.get_many(["none"]) == {"none": None}
    assert "none" in cache
    assert cache.has_key("none")
    assert "key" not in cache
    assert not cache.has_key("key")


def test_a_value_is_added_once(cache: Any) -> None:
    assert cache.add("key", "value") is True
    assert cache.add("key", "new") is False
    assert cache.get("key") == "value"
    cache.set("none", None)
    assert cache.add("none", "new") is False


def test_get_or_set(cache: Any) -> None:
    calls = []

    def create() -> object:
        calls.append(1)
        return "created"

    assert cache.get_or_set("value", "value") == "value"
    assert cache.get_or_set("value", "other") == "value"
    assert cache.get_or_set("callable", create) == "created"
    assert cache.get_or_set("callable", create) == "created"
    assert cache.get_or_set("none", lambda: None) is None
    assert cache.get_or_set("none", create) is None
    assert calls == [1]
    assert cache.get_or_set("version", 1, version=2) == 1
    assert cache.get("version") is None
    with pytest.raises(TypeError):
        cache.get_or_set("version")


def test_many(cache: Any) -> None:
    assert cache.set_many({"a": 1, "b": 2, "c": 3}) == []
    assert cache.get_many(["a", "c", "x"]) == {"a": 1, "c": 3}
    assert cache.get_many(iter(["a", "b"])) == {"a": 1, "b": 2}
    assert cache.get_many([]) == {}
    assert cache.set_many({}) == []
    assert cache.delete_many(["a", "x"]) is None
    assert cache.delete_many(key for key in ["b"]) is None
    assert cache.delete_many([]) is None
    assert cache.get_many("abc") == {"c": 3}
    cache.set_many({"a": 1, "b": 2}, timeout=0.05)
    cache.set_many({"c": 3}, timeout=0)
    assert cache.get("c") is None
    time.sleep(0.06)
    assert cache.get_many("abc") == {}


def test_delete(cache: Any) -> None:
    cache.set("a", 1)
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    assert cache.get("a") is None


def test_clear_takes_everything(opened: Open) -> None:
    cache, prefixed = opened(), opened(KEY_PREFIX="other")
    cache.set("a", 1)
    cache.set("a", 1, version=2)
    prefixed.set("a", 1)
    cache.clear()
    assert cache.get("a") is cache.get("a", version=2) is prefixed.get("a") is None


def test_timeouts(opened: Open) -> None:
    cache = opened(TIMEOUT=0.05)  # an int of it: 0
    cache.set("default", 1)
    assert cache.get("default") is None
    for timeout in (None, 1000, 10**12, datetime.timedelta(seconds=900).total_seconds()):
        cache.set("key", 1, timeout)
        assert cache.get("key") == 1
        cache.delete("key")
        assert cache.add("key", 2, timeout)
        assert cache.get("key") == 2
    cache.set("soon", 1, timeout=0.05)
    cache.add("soon-too", 1, timeout=0.05)
    time.sleep(0.06)
    assert cache.get("soon") is cache.get("soon-too") is None
    assert "soon" not in cache
    assert cache.add("soon", 2, timeout=1000)
    assert cache.get("soon") == 2


@pytest.mark.parametrize("timeout", [0, -5, -0.5])
def test_a_timeout_of_zero_or_less_is_now(cache: Any, timeout: float) -> None:
    cache.set("a", 1)
    cache.set("a", 2, timeout=timeout)
    assert cache.get("a") is None
    assert cache.add("b", 1, timeout=timeout) is True
    assert cache.get("b") is None
    cache.set("c", 1)
    assert cache.add("c", 2, timeout=timeout) is False
    assert cache.get("c") == 1
    assert cache.touch("c", timeout=timeout) is True
    assert cache.get("c") is None
    assert cache.get_or_set("d", 4, timeout=timeout) == 4
    assert cache.get("d") is None


def test_the_default_timeout_is_the_settings(opened: Open) -> None:
    def left_of(cache: Any) -> Any:
        cache.set("key", 1)
        return cache._cache.get_with_expiry(cache.make_key("key"))[1]

    assert 250 < left_of(opened()) <= 300
    assert 900 < left_of(opened(TIMEOUT=1000)) <= 1000
    assert left_of(opened(TIMEOUT=None)) is None
    forever = opened(TIMEOUT=None)
    forever.touch("key", 50)
    assert forever._cache.get_with_expiry(forever.make_key("key"))[1] <= 50
    forever.touch("key")
    assert left_of(forever) is None


def test_touch(cache: Any) -> None:
    def left(key: str) -> float | None:
        seconds: float | None = cache._cache.get_with_expiry(cache.make_key(key))[1]
        return seconds

    cache.set("key", "value", timeout=100)
    assert cache.touch("key", timeout=1000) is True
    cache.set("other", "value", timeout=100)
    assert cache.touch("other", timeout=None) is True
    assert cache.get("key") == cache.get("other") == "value"
    assert 800 < (left("key") or 0) <= 1000
    assert left("other") is None
    assert cache.touch("missing", timeout=1) is False
    for now in (0, -1, -(10**12)):
        cache.set("key", "value")
        assert cache.touch("key", timeout=now) is True
        assert cache.get("key") is None


def test_incr_and_decr(cache: Any) -> None:
    cache.set("key", 41)
    assert cache.incr("key") == 42
    assert cache.get("key") == 42
    assert cache.incr("key", 10) == 52
    assert cache.incr("key", -12) == 40
    assert cache.decr("key") == 39
    assert cache.decr("key", 9) == 30
    assert cache.decr("key", -1) == 31
    for change in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match="Key 'missing' not found"):
            change("missing")
    cache.set("none", None)
    with pytest.raises(TypeError):
        cache.incr("none")


def test_incr_keeps_the_expiry(cache: Any) -> None:
    cache.set("limited", 0, timeout=1000)
    cache.set("forever", 0, timeout=None)
    assert cache.incr("limited") == cache.incr("forever") == 1
    assert 900 < cache._cache.get_with_expiry(cache.make_key("limited"))[1] <= 1000
    assert cache._cache.get_with_expiry(cache.make_key("forever"))[1] is None


def test_versions(opened: Open) -> None:
    one, two = opened(), opened(VERSION=2)
    one.set("key", 1)
    one.set("key", 2, version=2)
    assert (one.get("key"), one.get("key", version=1), one.get("key", version=2)) == (1, 1, 2)
    assert (two.get("key"), two.get("key", version=1)) == (2, 1)
    assert one.add("key", 3, version=3)
    assert not one.add("key", 3, version=3)
    assert one.has_key("key", version=3)
    assert one.incr("key", version=3) == 4
    assert one.decr("key", version=3) == 3
    assert one.touch("key", 100, version=3)
    assert not one.touch("key", 100, version=4)
    assert one.delete("key", version=3)
    assert one.get("key") == 1
    one.set_many({"a": 1, "b": 2}, version=2)
    assert two.get_many(["a", "b"]) == one.get_many(["a", "b"], version=2) == {"a": 1, "b": 2}
    one.delete_many(["a"], version=2)
    assert two.get_many(["a", "b"]) == {"b": 2}


def test_a_version_can_be_changed(cache: Any) -> None:
    cache.set("key", "value", version=2)
    assert cache.incr_version("key", version=2) == 3
    assert (cache.get("key", version=2), cache.get("key", version=3)) == (None, "value")
    assert cache.decr_version("key", version=3, delta=2) == 1
    assert (cache.get("key"), cache.get("key", version=3)) == ("value", None)
    for change in (cache.incr_version, cache.decr_version):
        with pytest.raises(ValueError, match="not found"):
            change("missing")


def spaced(key: object, prefix: str, version: int) -> str:
    return f"CUSTOM-{prefix}-{version}-{key}"


def test_prefixes_and_key_functions(opened: Open) -> None:
    plain, prefixed, custom = opened(), opened(KEY_PREFIX="p"), opened(KEY_FUNCTION=spaced)
    plain.set("key", 1)
    assert prefixed.get("key") is custom.get("key") is None
    prefixed.set("key", 2)
    custom.set("key", 3)
    custom.set(7, 4)  # a key need not be a str
    assert (plain.get("key"), prefixed.get("key"), custom.get("key"), custom.get(7)) == (1, 2, 3, 4)
    assert custom.get_many(["key", 7]) == {"key": 3, 7: 4}
    assert custom._cache.get("CUSTOM--1-key") == 3


@pytest.mark.parametrize("key", ["key with spaces and 清", "k" * 251, "control\x7f"])
def test_a_key_that_memcached_refuses_is_warned_of_and_works(cache: Any, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: cache.add(key, 1),
        lambda: cache.set(key, 1),
        lambda: cache.incr(key),
        lambda: cache.touch(key),
        lambda: cache.set_many({key: 2}),
    ]
    for call in calls:
        with pytest.warns(CacheKeyWarning):
            call()
    with pytest.warns(CacheKeyWarning):
        assert cache.get(key) == 2
    with pytest.warns(CacheKeyWarning):
        assert cache.get_many([key]) == {key: 2}
    with pytest.warns(CacheKeyWarning):
        assert cache.delete(key)
    with pytest.warns(CacheKeyWarning):
        cache.delete_many([key])


def test_a_key_that_no_name_can_hold_is_refused(cache: Any) -> None:
    for call in (cache.get, cache.delete, cache.incr, cache.touch):
        with pytest.warns(CacheKeyWarning), pytest.raises(InvalidCacheKey, match="at most 4000 bytes"):
            call("ヂ" * 1400)


def test_close_leaves_it_usable(cache: Any) -> None:
    cache.set("key", 1)
    cache.close()
    cache.close()
    assert cache.get("key") == 1


async def test_the_asynchronous_verbs(cache: Any) -> None:
    await cache.aset("a", 1)
    assert await cache.aget("a") == 1
    assert await cache.aadd("a", 2) is False
    assert await cache.aget_or_set("b", lambda: 2) == 2
    assert await cache.ahas_key("b")
    assert await cache.aincr("a") == 2
    assert await cache.adecr("a", 2) == 0
    with pytest.raises(ValueError, match="not found"):
        await cache.aincr("missing")
    assert await cache.atouch("a", 1000)
    assert await cache.aset_many({"c": 3, "d": 4}) == []
    assert await cache.aget_many(["c", "d", "x"]) == {"c": 3, "d": 4}
    await cache.adelete_many(["c"])
    assert await cache.aget("c") is None
    assert await cache.adelete("d")
    assert await cache.aincr_version("a") == 2
    assert await cache.adecr_version("a", version=2) == 1
    await cache.aclear()
    assert await cache.aget("a") is None
    await cache.aclose()


def test_each_thread_has_a_backend_and_all_one_connection(daemon: DaemonProcess) -> None:
    entry = {"BACKEND": "bcached.adapters.django.BcachedCache", "LOCATION": str(daemon.socket_path)}
    caches, used = CacheHandler({"default": entry}), []

    def work(number: int) -> None:
        cache = caches["default"]
        cache.set(str(number), number)
        used.append((id(cache), cache._cache, cache))

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len({one for one, _, _ in used}) == 4
    assert len({connected for _, connected, _ in used}) == 1
    assert caches["default"].get_many("0123") == {str(number): number for number in range(4)}


def test_what_is_set_is_seen_by_all(opened: Open, daemon: DaemonProcess, request: Any) -> None:
    cache = opened()
    with Cache(str(daemon.socket_path), label_of(request.node.name), serializer="pickle") as other:
        for number in range(20):
            cache.set("key", number)
            assert other.get(":1:key") == number
            cache.set_many({"many": number})
            assert other.get(":1:many") == number
    soon = opened({"wait": False})
    soon.set("key", "soon")
    assert soon.get("key") == "soon"


class Upper:
    """A serializer."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return repr(value).upper().encode()

    @staticmethod
    def loads(data: bytes) -> Any:
        return data.decode()


def test_serializers(opened: Open) -> None:
    packed = opened({"serializer": "msgpack"})
    packed.set("packed", (1, 2))
    assert packed.get("packed") == [1, 2]
    packed.set("array", bytearray(b"array"))
    assert packed.get("array") == b"array"
    assert packed.incr_version("packed") == 2
    custom = opened({"serializer": Upper})
    custom.set("custom", ["a"])
    assert custom.get("custom") == "['A']"
    dotted = opened({"serializer": "django.core.signing.JSONSerializer"})
    assert dotted._serializer.__name__ == "JSONSerializer"


def test_the_settings_are_checked(opened: Open) -> None:
    assert opened({"MAX_ENTRIES": 10, "CULL_FREQUENCY": 2}).get("a") is None
    with pytest.raises(ImproperlyConfigured, match="'volum'"):
        opened({"volum": "typo"})
    with pytest.raises(ImproperlyConfigured, match=r"the path of one socket, not \['/a', '/b'\]"):
        BcachedCache(["/a", "/b"], {})  # type: ignore[arg-type]
    assert BcachedCache("", {})._path == "/run/bcached/io.bcached"


def test_a_location_may_be_a_path(daemon: DaemonProcess) -> None:
    one, other = BcachedCache(daemon.socket_path, {}), BcachedCache(str(daemon.socket_path), {})
    one.set("path", 1)
    assert other.get("path") == 1
    assert one._cache is other._cache


def test_without_a_daemon(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing")
    with pytest.raises(ConnectionLost):
        BcachedCache(nowhere, {}).get("a")
    cache = BcachedCache(nowhere, {"OPTIONS": {"ignore_unavailable": True}})
    cache.set("a", 1)
    cache.set("a", 1, timeout=0)
    assert cache.get("a", 7) == 7
    assert cache.get_or_set("a", lambda: 8) == 8
    assert cache.set_many({"a": 1}) == []
    assert cache.get_many(["a"]) == {}
    assert not cache.add("a", 1)
    assert not cache.touch("a")
    assert not cache.delete("a")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("a")
    cache.delete_many(["a"])
    cache.clear()


SITE = """
import sys
import django
from django.conf import settings
entry = {"BACKEND": "bcached.adapters.django.BcachedCache", "LOCATION": sys.argv[1]}
settings.configure(CACHES={"default": entry}, SECRET_KEY="s", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.cache", INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"], USE_TZ=True)
django.setup()
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from django.views.decorators.cache import cache_page
calls = []
@cache_page(60)
def page(request):
    calls.append(1)
    return HttpResponse(f"page {len(calls)}")
def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))
urlpatterns = [path("page", page), path("visits", visits)]
client = Client()
print([client.get("/page").content.decode() for _ in range(3)], len(calls))
print([client.get("/visits").content.decode() for _ in range(3)])
"""


def test_pages_and_sessions_of_a_site_are_kept(daemon: DaemonProcess) -> None:
    command = [sys.executable, "-c", SITE, str(daemon.socket_path)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert (first.stderr, second.stderr) == ("", "")
    assert first.stdout == "['page 1', 'page 1', 'page 1'] 1\n['1', '2', '3']\n"
    assert second.stdout == "['page 1', 'page 1', 'page 1'] 0\n['1', '2', '3']\n"
