# SPDX-License-Identifier: GPL-2.0-only
"""Waiting until a journal entry is durable: one future per entry, shared by all its waiters.

Many clients commit into one entry.
"""

import asyncio
from functools import partial

from bcached.errors import RequestError
from bcached.runtime.index.index import Index


class Durability:
    """The entries that replies wait for."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._journal = index.changes.journal
        self._waited_for: dict[int, asyncio.Future[None]] = {}

    def reached(self, seq: int) -> "asyncio.Future[None] | None":
        """Returns a future that is done when the entry is durable; None if it is.

        It is shared, so never to be cancelled. It fails with DeviceFailed if the entry cannot be written, and
        this raises it if that is known.
        """
        if self._journal.durable_seq >= seq:
            return None
        future = self._waited_for.get(seq)
        if future is None:
            written = self._index.written(seq)
            future = self._waited_for[seq] = asyncio.get_running_loop().create_future()
            written.add_done_callback(partial(self._settle, seq))
        return future

    def _settle(self, seq: int, written: "asyncio.Future[None]") -> None:
        future = self._waited_for.pop(seq)
        try:
            self._index.check_written(written)
        except RequestError as error:
            future.set_exception(error)
            future.exception()  # retrieved, if all connections that waited are closed
        else:
            future.set_result(None)
