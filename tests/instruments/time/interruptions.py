# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions that no call expects, at any place where a signal handler may raise one in the client."""

import opcode
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from weakref import finalize

import bcached.client

FOLDER = os.path.dirname(bcached.client.__file__)


class Interruption(BaseException):
    """What the handler of a signal may raise."""


def is_finalizer(frame: FrameType) -> bool:
    """Whether an exception would go nowhere: what a collection of garbage runs raises none."""
    caller = frame.f_back.f_code if frame.f_back else None
    return frame.f_code.co_name == "__del__" or caller is finalize.__call__.__code__


def interrupted_at(number: int, call: Callable[[], object], kind: type[BaseException] = Interruption) -> bool:
    """Raise at the number-th place in the call where the interpreter looks for signals; whether there is one.

    Such places are the start of a function, the end of a turn of a loop, and behind each call.
    """
    left = number
    last: dict[FrameType, str] = {}
    finalizing: set[FrameType] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "call" and (is_finalizer(frame) or frame.f_back in finalizing):
            finalizing.add(frame)
            return None
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = opcode.opname[frame.f_code.co_code[frame.f_lasti]]
            left -= last.get(frame, "").startswith("CALL") or name in ("RESUME", "JUMP_BACKWARD")
            last[frame] = name
            if left < 0:
                sys.settrace(None)
                raise kind
        return trace

    sys.settrace(trace)
    try:
        call()
    except kind:
        return True
    finally:
        sys.settrace(None)
    return left < 0
