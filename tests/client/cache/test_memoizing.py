# SPDX-License-Identifier: GPL-2.0-only
"""Functions that have names and results to keep, and the names of their calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from bcached.client import Cache
from bcached.client.cache.memoizing import call_name


class Returning:
    def __call__(self) -> int:
        return 1


def test_a_function_without_a_name_or_a_result_is_not_memoized() -> None:
    cache = Cache("nowhere")

    def generates() -> Iterator[int]:
        yield 1

    for nameless in (lambda: 1, partial(int, "10"), Returning()):
        with pytest.raises(TypeError, match="has no name of its own"):
            cache.memoize()(nameless)
    with pytest.raises(TypeError, match="is a generator function"):
        cache.memoize()(generates)
    with pytest.raises(ValueError, match="at most 4000 bytes"):
        cache.memoize(name="n" * 3990)(lambda: 1)
    assert callable(cache.memoize(name="two")(partial(int, "10")))


def test_arguments_have_no_order_of_their_process() -> None:
    script = "from bcached.client.cache.memoizing import call_name as name\n"
    script += "print(name(b'', ({'a', 'b', 'c', 'd'},), {}, typed=True))"
    names = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(names) == 1
    assert call_name(b"", ({1: 2, "a": 3},), {}, typed=False)  # which have none that is the same for all
