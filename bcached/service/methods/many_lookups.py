# SPDX-License-Identifier: GPL-2.0-only
"""Several look-ups for one reply: the first within the loop's time limit, the rest in steps."""

from collections.abc import Awaitable, Callable, Sequence

from bcached.errors import RequestError
from bcached.keys import Key
from bcached.runtime.index.lookups import LookupRequest, LookupResult, Lookups
from bcached.service.methods.defaults import lookup_request
from bcached.service.requests.method import next_iteration
from bcached.state.sectors.reservations import Holder
from bcached.wire import messages

LOOKUPS_A_STEP = 64  # within the millisecond that a request may hold the loop


class ManyLookups:
    """The look-ups of one LookupMany and their results; they share the reply's limit of keys.

    If one is refused, all are, and no key stays pinned.
    """

    def __init__(
        self,
        lookups: Lookups,
        holder: Holder,
        requests: Sequence[messages.Lookup],
        block_mask: int,
        pause: Callable[[], Awaitable[None]] = next_iteration,
    ) -> None:
        self._pause = pause
        self._lookups = lookups
        self._holder = holder
        self._requests = requests
        self._block_mask = block_mask
        self._keys: list[tuple[Key, ...]] = []  # found, by look-up
        self._next: list[int | None] = []  # where each continues
        self._left = messages.FOUND_MAX  # how many more keys the reply may contain
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
                await self._pause()
                if (waiting := self._step()) is not None:
                    self._take(await self._lookups.lookup(waiting))
        except RequestError:
            self._unpin()
            raise

    def _step(self) -> LookupRequest | None:
        """Run some more; returns the one that has to wait, if any."""
        begin = len(self._keys)
        for one in self._requests[begin : begin + LOOKUPS_A_STEP]:
            request = lookup_request(one, self._holder, self._block_mask, self._left)
            found = self._lookups.try_lookup(request) if self._left else LookupResult([], one.offset)
            if found is None:
                return request
            self._take(found)
        return None

    def _take(self, found: LookupResult) -> None:
        if self._requests[len(self._keys)].pin:
            self._pinned += found.keys
        self._keys.append(tuple(found.keys))
        self._next.append(found.next)
        self._left -= len(found.keys)

    def _unpin(self) -> None:
        if self._pinned:
            self._lookups.unpin(self._holder, self._pinned)
