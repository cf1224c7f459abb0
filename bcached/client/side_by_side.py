# SPDX-License-Identifier: MIT
"""Blocking calls in a few threads, for a caller that waits for all of them."""

from collections.abc import Callable, Sequence
from threading import Lock, Thread
from typing import TypeVar

T = TypeVar("T")

THREADS = 4  # concurrent transfers; more gain nothing on one device


def side_by_side(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Returns the results of the jobs, in order. When it returns or raises, none is running.

    The first error, or an interruption of the caller, keeps further jobs from beginning.
    """
    results: list[T | None] = [None] * len(jobs)
    errors: list[BaseException] = []
    left, lock = iter(range(len(jobs))), Lock()

    def work() -> None:
        try:
            while not errors:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                results[number] = jobs[number]()
        except BaseException as error:
            errors.append(error)

    helpers = [Thread(target=work, name="bcached-client") for _ in range(min(THREADS, len(jobs)) - 1)]
    try:
        for helper in helpers:
            helper.start()
        work()
    except BaseException as error:
        errors.append(error)
    for helper in helpers:
        _join(helper, errors)
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value] # without an error, all of them ran


def _join(helper: Thread, errors: list[BaseException]) -> None:
    """Wait for the thread, whatever happens: its transfer must not outlast the call."""
    while helper.is_alive():
        try:
            helper.join()
        except BaseException as error:
            errors.append(error)
