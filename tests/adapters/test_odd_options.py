# SPDX-License-Identifier: GPL-2.0-only
"""An option of a backend that nothing could be done with is refused when the backend is made."""

import math
from typing import Any

import pytest
from django.core.cache import InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured

from bcached.adapters.django import BcachedCache
from bcached.adapters.dogpile import BcachedBackend
from instruments.samples.odd_arguments import NO_FLAG, NO_NUMBER, SURROGATE

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"volume": b"x"}, TypeError, "a volume is its label"),
    ({"volume": ""}, ValueError, "1 to 32 bytes"),
    ({"volume": ["x"]}, TypeError, "a volume is its label"),
    *[({"patience_s": one}, TypeError, "patience_s is a number") for one in NO_NUMBER],
    ({"patience_s": math.nan}, ValueError, "from 0 on"),
    *[({"wait": one}, TypeError, "wait is True or False") for one in NO_FLAG],
    ({"ignore_unavailable": "False"}, TypeError, "ignore_unavailable is True or False"),
]
OF_DOGPILE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"path": b"/run/s"}, TypeError, "a str or a path"),
    *[({"expire": one}, TypeError, "expire is a number") for one in NO_NUMBER],
    ({"expire": math.nan}, ValueError, "expire is a number"),
    ({"lock_timeout": "60"}, TypeError, "lock_timeout is a number"),
    ({"distributed_lock": 1}, TypeError, "distributed_lock is True or False"),
]


@pytest.mark.parametrize(("arguments", "kind", "said"), OPTIONS + OF_DOGPILE)
def test_dogpiles_is_not_made(arguments: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        BcachedBackend(arguments)


@pytest.mark.parametrize(("options", "said"), [(options, said) for options, _, said in OPTIONS])
def test_djangos_is_not_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"OPTIONS of a cache: .*{said}"):
        BcachedCache("/run/s", {"OPTIONS": options})


def test_a_key_or_a_timeout_that_is_none_is_refused_without_a_daemon() -> None:
    cache = BcachedCache("/nowhere", {"OPTIONS": {}})
    with pytest.raises(InvalidCacheKey, match="text that UTF-8 has"):
        cache.get(SURROGATE)
    for one in NO_NUMBER:
        with pytest.raises(TypeError, match="a timeout is a number of seconds"):
            cache.set("a", 1, timeout=one)
    with pytest.raises(TypeError, match="a key is a str, not b'a'"):
        BcachedBackend({}).get_serialized(b"a")  # type: ignore[arg-type]
