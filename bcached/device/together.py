"""Several device operations at once, as one: none outlives the call."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(operations: Iterable[Coroutine[Any, Any, None]], at_once: int = 0) -> None:
    """Run all, at_once of them at a time (0: all); when every one has ended, raise what one raised.

    asyncio.gather would return with the first error while the others are still writing.
    """
    turns = asyncio.Semaphore(at_once) if at_once else None

    async def in_turn(operation: Coroutine[Any, Any, None]) -> None:
        if turns is None:
            await operation
        else:
            async with turns:
                await operation

    try:
        async with asyncio.TaskGroup() as group:
            for operation in operations:
                group.create_task(in_turn(operation))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
