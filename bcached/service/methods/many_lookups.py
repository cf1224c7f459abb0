# SPDX-License-Identifier: GPL-2.0-only
"""Several look-ups for one reply: the first within the loop's time limit, the rest in steps."""

import asyncio
from collections.abc import Sequence

from bcached.errors import RequestError
from bcached.keys import Key
from bcached.runtime.lookups import LookupResult, Lookups
from bcached.state.sectors.reservations import Holder
from bcached.wire import messages

LOOKUPS_A_STEP = 64  # within the millisecond that a request may hold the loop


class ManyLookups:
    """The look-ups of one LookupMany and their results; they share the reply's limit of keys.

    If one is refused, all are, and no key stays pinned.
    """

    def __init__(self, lookups: Lookups, holder: Holder, requests: Sequence[messages.Lookup]) -> None:
        self._lookups = lookups
        self._holder = holder
        self._requests = requests
        self._keys: list[tuple[Key, ...]] = []
        self._next: list[int | None] = []
        self._left = messages.FOUND_MAX
        self._pinned: list[Key] = []

    @property
    def are_done(self) -> bool:
        """Whether every look-up has its keys."""
        return len(self._keys) == len(self._requests)

    def results(self) -> messages.FoundMany:
        """Returns what was found."""
        return messages.FoundMany(tuple(self._keys), tuple(self._next))

    def begin(self) -> None:
        """Run the first look-ups, up to one that must wait."""
        try:
            self._step()
        except RequestError:
            self._unpin()
            raise

    async def go_on(self) -> None:
        """Run the rest."""
        try:
            while not self.are_done:
                await asyncio.sleep(0)
                if not self._step():
                    self._take(await self._wait_for(self._requests[len(self._keys)]))
        except RequestError:
            self._unpin()
            raise

    def _step(self) -> bool:
        """Run some more; returns whether none of them had to wait."""
        begin = len(self._keys)
        for request in self._requests[begin : begin + LOOKUPS_A_STEP]:
            found = self._try(request)
            if found is None:
                return False
            self._take(found)
        return True

    def _try(self, request: messages.Lookup) -> LookupResult | None:
        if not self._left:
            return LookupResult([], request.offset)
        return self._lookups.try_lookup(
            request.inode,
            request.offset,
            request.sectors,
            limit=min(request.limit or messages.FOUND_MAX, self._left),
            pin=self._holder if request.pin else None,
            touch=request.touch is not False,
        )

    async def _wait_for(self, request: messages.Lookup) -> LookupResult:
        return await self._lookups.lookup(
            request.inode,
            request.offset,
            request.sectors,
            limit=min(request.limit or messages.FOUND_MAX, self._left),
            pin=self._holder if request.pin else None,
            touch=request.touch is not False,
        )

    def _take(self, found: LookupResult) -> None:
        if self._requests[len(self._keys)].pin:
            self._pinned += found.keys
        self._keys.append(tuple(found.keys))
        self._next.append(found.next)
        self._left -= len(found.keys)

    def _unpin(self) -> None:
        if self._pinned:
            self._lookups.unpin(self._holder, self._pinned)
