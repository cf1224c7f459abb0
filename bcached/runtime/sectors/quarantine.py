# SPDX-License-Identifier: GPL-2.0-only
"""Holders whose connection is closed: their buckets are kept until the process can write to them no more.

That is when the process has ended, or, if that cannot be observed, when the grace period has passed.
"""

import asyncio
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from bcached.runtime.coordination.wait_queue import Guard
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator


@dataclass(slots=True, eq=False)
class QuarantinedHolder:
    """One holder in quarantine; deadline is set while the end of its process is awaited."""

    holder: Holder
    pidfd: int | None
    deadline: asyncio.TimerHandle | None = None


class Quarantine:
    """All holders in quarantine; on_release is called when one is released.

    guard wraps callbacks of the loop, which would only log their exceptions.
    """

    def __init__(self, allocator: SectorAllocator, on_release: Callable[[], None], guard: Guard) -> None:
        self._allocator = allocator
        self._on_release = on_release
        self._release_guarded, self._continue_guarded = guard(self._release), guard(self._continue)
        self._entries: set[QuarantinedHolder] = set()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """Returns how many holders are in quarantine."""
        return len(self._entries)

    def holders(self) -> list[Holder]:
        """Returns the holders in quarantine."""
        return [entry.holder for entry in self._entries]

    def admit(self, holder: Holder, pid: int | None, grace_s: float) -> None:
        """Add a holder; pid is the process whose writes are awaited, if known.

        1. It holds nothing: not added.
        2. It only reads, or its process has ended: it stays only until its pieces and pins are ended.
        3. Its process runs: until that ends, or the grace has passed.
        4. Its process is unknown or cannot be observed: until the grace has passed.
        """
        if not holder.pieces and not holder.reads:
            return
        ended = not holder.pieces
        try:
            pidfd = os.pidfd_open(pid) if pid and not ended else None
        except ProcessLookupError:  # it has ended already, and its writes with it
            pidfd, ended = None, True
        except OSError:
            pidfd = None
        entry = QuarantinedHolder(holder, pidfd)
        self._entries.add(entry)
        if ended:
            self._in_steps(entry, self._allocator.ending(holder), self._discard)
        else:
            self._in_steps(entry, self._allocator.quarantine(holder), partial(self._watch, grace_s))

    def close(self) -> None:
        """Stop watching: the daemon ends, and its lease file fences the writers."""
        for entry in self._entries:
            self._stop_watching(entry)
        self._entries.clear()

    def _in_steps(
        self,
        entry: QuarantinedHolder,
        work: Generator[None, None, None],
        then: Callable[[QuarantinedHolder], None],
    ) -> None:
        """Process an entry's buckets, possibly very many, one step per iteration of the loop."""
        for _ in work:
            self._loop.call_soon(self._continue_guarded, entry, work, then)
            return
        then(entry)

    def _continue(
        self,
        entry: QuarantinedHolder,
        work: Generator[None, None, None],
        then: Callable[[QuarantinedHolder], None],
    ) -> None:
        if entry in self._entries:
            self._in_steps(entry, work, then)

    def _watch(self, grace_s: float, entry: QuarantinedHolder) -> None:
        entry.deadline = self._loop.call_later(grace_s, self._release_guarded, entry)
        if entry.pidfd is not None:
            self._loop.add_reader(entry.pidfd, self._release_guarded, entry)

    def _release(self, entry: QuarantinedHolder) -> None:
        if entry.deadline is not None:
            self._stop_watching(entry)
            self._in_steps(entry, self._allocator.end_quarantine(entry.holder), self._discard)

    def _stop_watching(self, entry: QuarantinedHolder) -> None:
        if entry.deadline is not None:
            entry.deadline.cancel()
            entry.deadline = None
        if entry.pidfd is not None:
            self._loop.remove_reader(entry.pidfd)
            os.close(entry.pidfd)
            entry.pidfd = None

    def _discard(self, entry: QuarantinedHolder) -> None:
        self._entries.discard(entry)
        self._on_release()
