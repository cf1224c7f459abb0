# SPDX-License-Identifier: GPL-2.0-only
"""How much work a call is, where it must not grow with something: in lines that run, not in time."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_run(call: Callable[[], object]) -> int:
    """Returns how many lines of Python a call runs, each pass of a loop counted.

    The cyclic collector is off meanwhile: finalizers and callbacks of other tests would be counted, too.
    """
    count = 0

    def trace(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count
