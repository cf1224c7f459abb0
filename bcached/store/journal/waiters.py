"""Those who wait for the journal: for an entry to be durable, or for room. Each may give up at any time."""

import asyncio


class Waiters:
    """Futures by a number: a seq, or words."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def most(self) -> int:
        """The largest number anybody waits with; 0 if nobody waits."""
        return max((number for number, future in self._waiting if not future.done()), default=0)

    async def wait(self, number: int) -> None:
        """Return when those with this number are woken."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        await future

    def wake(self, through: int) -> None:
        """Wake all up to a number."""
        still = []
        for number, future in self._waiting:
            if future.done():
                continue
            if number <= through:
                future.set_result(None)
            else:
                still.append((number, future))
        self._waiting = still

    def wake_all(self) -> None:
        """Wake everybody: they look for themselves what has happened."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)
