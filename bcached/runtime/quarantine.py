"""Holders whose connection broke: their buckets wait until no write of theirs can come any more.

That is when their process has ended, or, if that cannot be seen, when the grace has passed.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from bcached.runtime.wait_queue import Guard
from bcached.state.reservations import Holder
from bcached.state.sector_allocator import SectorAllocator


@dataclass(slots=True, eq=False)
class Ward:
    """One holder in quarantine."""

    holder: Holder
    pidfd: int | None
    deadline: asyncio.TimerHandle | None = None


class Quarantine:
    """All holders in quarantine; on_release is called when one is let out.

    guard is put around what the loop calls by itself, where an error of ours would go unheard.
    """

    def __init__(self, allocator: SectorAllocator, on_release: Callable[[], None], guard: Guard) -> None:
        self._allocator = allocator
        self._on_release = on_release
        self._release_guarded = guard(self._release)
        self._wards: set[Ward] = set()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """How many holders are in quarantine."""
        return len(self._wards)

    def holders(self) -> list[Holder]:
        """Those holders."""
        return [ward.holder for ward in self._wards]

    def admit(self, holder: Holder, pid: int | None, grace_s: float) -> None:
        """Take in a holder; pid is the process whose writes are to be waited for, if it is known."""
        if not holder.pieces:
            return
        self._allocator.quarantine(holder)
        try:
            pidfd = os.pidfd_open(pid) if pid else None
        except ProcessLookupError:  # ended already, and all its writes with it
            self._end(holder)
            return
        except OSError:
            pidfd = None
        ward = Ward(holder, pidfd)
        ward.deadline = self._loop.call_later(grace_s, self._release_guarded, ward)
        self._wards.add(ward)
        if pidfd is not None:
            self._loop.add_reader(pidfd, self._release_guarded, ward)

    def close(self) -> None:
        """Let everything go: the daemon ends, and its lease file takes over."""
        for ward in list(self._wards):
            self._forget(ward)

    def _release(self, ward: Ward) -> None:
        if ward in self._wards:
            self._forget(ward)
            self._end(ward.holder)

    def _forget(self, ward: Ward) -> None:
        self._wards.discard(ward)
        if ward.deadline is not None:
            ward.deadline.cancel()
        if ward.pidfd is not None:
            self._loop.remove_reader(ward.pidfd)
            os.close(ward.pidfd)

    def _end(self, holder: Holder) -> None:
        self._allocator.end_quarantine(holder)
        self._on_release()
