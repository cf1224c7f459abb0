# SPDX-License-Identifier: GPL-2.0-only
"""The journal writer: writes entries at once if one is waited for, and after a short delay otherwise.

A waiter for `Journal.durable` or for space may be cancelled with its client, so this task does the writes.
"""

import asyncio

from bcached.runtime.coordination.shared import Shared
from bcached.store.journal.journal import Journal

JOURNAL_WRITER = "journal writer"
GATHER_ITERATIONS, GATHER_S = 16, 0.002  # how long keys may join an entry that is wanted, at most


class JournalWriter:
    """Writes the entries that are wanted (kernel: bch_journal_next, and journal_write_work).

    It ends after the other tasks of a set, which need entries to finish.
    """

    def __init__(self, journal: Journal, shared: Shared) -> None:
        self._journal = journal
        self._shared = shared
        self._wake_up = asyncio.Event()  # set when an entry may be wanted, or due
        self._ended = False  # `end` was called
        journal.on_wanted = self._wake_up.set

    def end(self) -> None:
        """Write what was accepted, and end; to be called after the last leaf is written."""
        self._ended = True
        self._wake_up.set()

    async def run(self) -> None:
        """Work until the end; a DeviceError ends it, and the daemon with it."""
        try:
            await self._write_what_is_due()
        except BaseException as error:
            self._journal.abort(error)  # no other task writes for the waiters
            raise

    async def _write_what_is_due(self) -> None:
        """Write entries until `end` was called and no key is left to write."""
        journal = self._journal
        while True:
            self._wake_up.clear()
            due_s = self._due_s()
            if due_s is None and self._ended:
                return
            if not self._is_due(due_s):
                await self._sleep(due_s)
                continue
            await self._gather()
            if self._is_due(self._due_s()):  # else another task has written the entry meanwhile
                self._shared.steps.begin(self)
                await journal.commit()
                self._shared.steps.end(self)

    def _is_due(self, due_s: float | None) -> bool:
        """Whether an entry that is due in so many seconds is to be written now."""
        return due_s is not None and (self._ended or due_s <= 0)

    async def _gather(self) -> None:
        """Let keys join the entry while each iteration of the loop brings some, for a short time.

        Many clients that each wait for an entry would else divide into two groups, each of which waits for
        the entry of the other and for its own: twice as many entries, and flushes.
        """
        entry, clock = self._journal.open_entry, self._shared.clock
        until_s = clock() + GATHER_S
        for _ in range(GATHER_ITERATIONS):
            count = entry.key_count
            await asyncio.sleep(0)
            if entry.key_count == count or clock() >= until_s:
                return

    def _due_s(self) -> float | None:
        """Returns the seconds until an entry is due; None if none is."""
        journal = self._journal
        if journal.is_wanted:
            return 0.0
        opened_at = journal.open_entry.opened_at
        if opened_at is None:
            return None
        return opened_at + self._shared.options.journal_delay_s - self._shared.clock()

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep until woken, or for so many seconds."""
        if seconds is None:
            await self._wake_up.wait()
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._wake_up.set)
        try:
            await self._wake_up.wait()
        finally:
            timer.cancel()
