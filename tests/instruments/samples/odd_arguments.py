# SPDX-License-Identifier: GPL-2.0-only
"""Values that callers pass by mistake, and cases of calls with one of them."""

import math
from typing import Any

HUGE = 10**5000
SURROGATE = "\ud800"
NO_NUMBER: tuple[Any, ...] = ("1", b"1", True, [1], object())
NO_FLAG: tuple[Any, ...] = (0, 1, "yes", "", b"", math.nan, [])

# A path, a patience and what else a client or a cache is made with: the error, and what it says.
CONSTRUCTORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[({"path": one}, TypeError, "a str or a path") for one in (b"/run/s", 5, None, object())],
    ({"path": ""}, ValueError, "at least one character"),
    *[({"patience_s": one}, TypeError, "a number of seconds") for one in (*NO_NUMBER, None)],
    *[({"patience_s": one}, ValueError, "from 0 on") for one in (-1, -math.inf, math.nan, -HUGE)],
]

# A method, its arguments, the error, and what it says.
Case = tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]


def of(method: str, kind: type[Exception], said: str, *arguments: Any, **named: Any) -> Case:
    """A case."""
    return method, arguments, named, kind, said
