# SPDX-License-Identifier: GPL-2.0-only
"""Several device operations at once, in one call that none of them outlives."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

DeviceOperation = Callable[[], Coroutine[Any, Any, None]]


async def run_all(operations: Iterable[DeviceOperation], at_once: int = 64) -> None:
    """Run all, at most at_once at a time; once all have ended, raises the first error.

    asyncio.gather would return with the first error while the others are still writing.
    """
    slots = asyncio.Semaphore(at_once)

    async def run_in_slot(operation: DeviceOperation) -> None:
        async with slots:
            await operation()

    try:
        async with asyncio.TaskGroup() as group:
            for operation in operations:
                group.create_task(run_in_slot(operation))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
