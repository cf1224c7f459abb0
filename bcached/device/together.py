"""Several device operations at once, in one call that none of them outlives."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

Operation = Callable[[], Coroutine[Any, Any, None]]


async def together(operations: Iterable[Operation], at_once: int = 64) -> None:
    """Run all, at most at_once at a time; once all have ended, raises the first error.

    asyncio.gather would return with the first error while the others are still writing.
    """
    turns = asyncio.Semaphore(at_once)

    async def in_turn(operation: Operation) -> None:
        async with turns:
            await operation()

    try:
        async with asyncio.TaskGroup() as group:
            for operation in operations:
                group.create_task(in_turn(operation))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
