# SPDX-License-Identifier: GPL-2.0-only
"""How a set ends: the refusal of changes, the request to stop, and errors that no task can raise."""

import asyncio
from collections.abc import Callable
from functools import wraps

from bcached.errors import RequestError
from bcached.runtime.coordination.conditions import Conditions, Fact


class Stop:
    """Whether changes are refused, and whether the tasks are to end.

    broken gets the first exception of a guarded callback, which runs outside the tasks.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.refusal: RequestError | None = None  # why nothing may change any more
        self.on_refusal: list[Callable[[RequestError], None]] = []  # called with the refusal when it is set
        self.is_requested = False  # every task ends after its present step
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._conditions = conditions

    def check_changeable(self) -> None:
        """Raises the refusal if nothing may change any more."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    def refuse(self, reason: RequestError) -> None:
        """Refuse all changes from now on, and fail the waiters; the first reason is kept."""
        if self.refusal is None:
            self.refusal = reason
            for callback in self.on_refusal:
                callback(reason)
            self._conditions.announce(*Fact)

    def request(self) -> None:
        """Have every task end after its present step."""
        self.is_requested = True
        self._conditions.announce(*Fact)

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Returns the callback wrapped for timers and the like: the loop would only log its exceptions."""

        @wraps(callback)
        def call(*args: object) -> None:
            try:
                callback(*args)
            except Exception as error:
                if not self.broken.done():
                    self.broken.set_exception(error)

        return call
