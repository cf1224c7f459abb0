# SPDX-License-Identifier: GPL-2.0-only
"""Every point at which a task is resumed, counted; something can be done at the n-th one.

An await that suspends is left again by a resumption, so that going through all resumptions of a scenario
goes through all its awaits; `passed` tells which lines of our rooms they were.
"""

import ast
import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import bcached

ROOT = Path(bcached.__file__).parent


class AwaitPoints:
    """Counts resumptions on a loop from `watch` on, while they matter; at number `at` it calls `act` once."""

    def __init__(self, at: int | None = None, act: Callable[[], object] = lambda: None) -> None:
        self.matters: Callable[[], bool] = lambda: True
        self.count = 0
        self.acted = False
        self.passed: set[tuple[str, int]] = set()
        self._at = at
        self._act = act

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_task_factory(self._make_task)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        return asyncio.Task(_Watched(coroutine, self), loop=loop, **kwargs)

    def resumed(self, coroutine: Any) -> None:
        """A task goes on from where it waited."""
        if not self.matters():
            return
        if self._at is None:
            self.passed.update(_lines(coroutine))
        self.count += 1
        if self.count == self._at:
            self.acted = True
            self._act()


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells of every resumption before it goes on."""

    def __init__(self, inner: Coroutine[Any, Any, Any], points: AwaitPoints) -> None:
        self._inner = inner
        self._points = points
        self.__name__ = getattr(inner, "__name__", "?")
        self.__qualname__ = getattr(inner, "__qualname__", "?")

    def send(self, value: Any) -> Any:
        self._points.resumed(self._inner)
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        self._points.resumed(self._inner)
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


def _lines(coroutine: Any) -> Iterator[tuple[str, int]]:
    """Where a suspended coroutine waits, and where that waits which it waits for, and so on."""
    while coroutine is not None:
        kind = "cr" if inspect.iscoroutine(coroutine) else "ag" if inspect.isasyncgen(coroutine) else "gi"
        frame = getattr(coroutine, f"{kind}_frame", None)
        if frame is None:
            return
        file = frame.f_code.co_filename
        if file.startswith(str(ROOT)):
            yield str(Path(file).relative_to(ROOT)), frame.f_lineno
        coroutine = getattr(coroutine, f"{kind}_{'yieldfrom' if kind == 'gi' else 'await'}", None)
        if file.endswith("contextlib.py") and type(coroutine).__name__.startswith("async_generator_"):
            coroutine = frame.f_locals["self"].gen  # what it waits for does not tell of itself


def awaits_in(room: str) -> set[tuple[str, int, int, str]]:
    """All places in a room that may wait: file, first line, last line, and what it says there."""
    found = set()
    for path in sorted((ROOT / room).rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Await):
                first, last = node.lineno, node.end_lineno or node.lineno
            elif isinstance(node, ast.AsyncWith | ast.AsyncFor):
                first, last = node.lineno, node.body[0].lineno - 1
            else:
                continue
            found.add((str(path.relative_to(ROOT)), first, last, source.splitlines()[first - 1].strip()))
    return found
