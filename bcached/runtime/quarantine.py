"""Holders whose connection broke: their buckets wait until no write of theirs can come any more.

That is when their process has ended, or, if that cannot be seen, when the grace has passed.
"""

import asyncio
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from bcached.runtime.wait_queue import Guard
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator


@dataclass(slots=True, eq=False)
class Ward:
    """One holder in quarantine; it has a deadline as long as its end is waited for."""

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
        self._release_guarded, self._go_on_guarded = guard(self._release), guard(self._go_on)
        self._wards: set[Ward] = set()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """How many holders are in quarantine."""
        return len(self._wards)

    def holders(self) -> list[Holder]:
        """Those holders."""
        return [ward.holder for ward in self._wards]

    def admit(self, holder: Holder, pid: int | None, grace_s: float) -> None:
        """Take in a holder; pid is the process whose writes are to be waited for, if it is known.

        One that only reads is not waited for, and is here as long as it takes to end its pins.
        """
        if not holder.pieces and not holder.reads:
            return
        ended = not holder.pieces
        try:
            pidfd = os.pidfd_open(pid) if pid and not ended else None
        except ProcessLookupError:  # ended already, and all its writes with it
            pidfd, ended = None, True
        except OSError:
            pidfd = None
        ward = Ward(holder, pidfd)
        self._wards.add(ward)
        if ended:
            self._in_steps(ward, self._allocator.ending(holder), self._let_go)
        else:
            self._in_steps(ward, self._allocator.quarantine(holder), partial(self._watch, grace_s))

    def close(self) -> None:
        """Let everything go: the daemon ends, and its lease file takes over."""
        for ward in self._wards:
            self._stop_watching(ward)
        self._wards.clear()

    def _in_steps(self, ward: Ward, work: Generator[None, None, None], then: Callable[[Ward], None]) -> None:
        """Do work on a ward's buckets, of which it may have very many, without holding the loop for all."""
        for _ in work:
            self._loop.call_soon(self._go_on_guarded, ward, work, then)
            return
        then(ward)

    def _go_on(self, ward: Ward, work: Generator[None, None, None], then: Callable[[Ward], None]) -> None:
        if ward in self._wards:
            self._in_steps(ward, work, then)

    def _watch(self, grace_s: float, ward: Ward) -> None:
        ward.deadline = self._loop.call_later(grace_s, self._release_guarded, ward)
        if ward.pidfd is not None:
            self._loop.add_reader(ward.pidfd, self._release_guarded, ward)

    def _release(self, ward: Ward) -> None:
        if ward.deadline is not None:
            self._stop_watching(ward)
            self._in_steps(ward, self._allocator.end_quarantine(ward.holder), self._let_go)

    def _stop_watching(self, ward: Ward) -> None:
        if ward.deadline is not None:
            ward.deadline.cancel()
            ward.deadline = None
        if ward.pidfd is not None:
            self._loop.remove_reader(ward.pidfd)
            os.close(ward.pidfd)
            ward.pidfd = None

    def _let_go(self, ward: Ward) -> None:
        self._wards.discard(ward)
        self._on_release()
