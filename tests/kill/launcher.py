# SPDX-License-Identifier: GPL-2.0-only
"""Begins lives of the daemon by forking off a process that has imported it already: a tenth of the time.

Each line on stdin asks for a life: the arguments, the environment, where to log, and at which of its system
calls on devices it is killed, if at any. Its pid and then its exit status come back, a line each. What runs
is the program as it is; only where a kill is asked for stands a counter before the calls.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from bcached.device import kernel_calls
from bcached.service.daemon import main

SECTOR_BYTES = 512


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class FatalCall:
    """Kills the process before, in the midst of or after the count-th call (of all that are watched)."""

    def __init__(self, calls: list[str], count: int, moment: str) -> None:
        self._left = count
        self._moment = moment
        self._lock = threading.Lock()
        for name in calls:
            owner: Any = os if hasattr(os, name) else kernel_calls
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            with self._lock:
                self._left -= 1
                is_due = self._left == 0
            if not is_due:
                return call(*arguments)
            if self._moment == "after":
                call(*arguments)
            elif self._moment == "amid" and call.__name__ == "pwritev":
                descriptor, (data,), offset, _ = arguments
                torn = len(data) // SECTOR_BYTES // 2 * SECTOR_BYTES
                if torn:
                    os.pwrite(descriptor, data[:torn], offset)
            return die()

        return watched


def live(asked: dict[str, Any]) -> NoReturn:
    """In the forked process: become the daemon."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, source in ((0, nowhere), (1, nowhere), (2, log)):
        os.dup2(source, descriptor)
    os.environ |= asked["environment"]
    sys.argv = ["bcached", *asked["arguments"]]
    if fatal := asked["fatal"]:
        FatalCall(**fatal)
    status = 70
    try:
        status = main()
    finally:
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
