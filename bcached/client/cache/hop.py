# SPDX-License-Identifier: MIT
"""A call made in a thread for a task of an event loop."""

from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(executor: Executor, call: Callable[[], T]) -> T:
    """Returns what the call returns, or raises its error. One that is cancelled may still be made.

    As run_in_executor does it, but without a second future that the first is chained to, which would cost a
    tenth of the processor time of a small object that is stored and waited for.
    """
    loop = get_running_loop()
    done: Future[T] = loop.create_future()
    executor.submit(_make, loop, [(done, call)])
    try:
        return await done
    finally:
        del done  # which has the error, whose traceback has this frame


def _make(loop: AbstractEventLoop, work: "list[tuple[Future[T], Callable[[], T]]]") -> None:
    done, call = work.pop()  # so that the executor's frame, which an error's traceback has, too, lacks it
    if done.cancelled():
        return
    try:
        result = call()
    except BaseException as error:
        _tell(loop, _fail, done, error)
        del done  # for the same reason as above
    else:
        _tell(loop, _answer, done, result)


def _tell(loop: AbstractEventLoop, tell: Callable[..., None], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(tell, *arguments)


def _answer(done: "Future[T]", result: T) -> None:
    if not done.done():  # else cancelled
        done.set_result(result)


def _fail(done: "Future[Any]", error: BaseException) -> None:
    if isinstance(error, StopIteration):  # which no future takes: the caller would wait for ever
        error = RuntimeError(f"a call in a thread raised {error!r}")
    if not done.done():
        done.set_exception(error)
