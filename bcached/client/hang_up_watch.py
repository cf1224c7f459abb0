# SPDX-License-Identifier: MIT
"""A thread that notices the end of connections whose clients make no call, and has released what they hold.

A blocking client looks at its connection only within a call, an asyncio client only while its loop runs. The
lease of one that does neither would have the next run of the daemon wait for the whole grace, although
nothing is being written, and its open data files would keep the device in use.
"""

import contextlib
import select
from threading import RLock, Thread
from typing import Protocol
from weakref import WeakValueDictionary

from bcached.client.forks import end_in_children


class Settles(Protocol):
    """What is released with a connection."""

    def settle(self) -> None:
        """Release what is unused, if the connection has ended."""


class HangUpWatch:
    """One thread for all connections of a process; it is asleep until one of them ends."""

    def __init__(self) -> None:
        self._lock = RLock()  # reentrant: a signal handler may connect, too
        self._poll: select.epoll | None = None  # made when first needed, once in each process
        self._thread: Thread | None = None
        # By descriptor. One that was collected has closed its socket, which ends the registration.
        self._watched: WeakValueDictionary[int, Settles] = WeakValueDictionary()

    def add(self, descriptor: int, one: Settles) -> None:
        """Have `one` settled when the socket with this descriptor is shut, also if it is by now.

        Where no thread can be started, or no descriptor is left, it is settled by its next call only.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._poll is None:
                end_in_children(self)
                self._poll = select.epoll()
            self._watched[descriptor] = one
            # No event requested: EPOLLHUP is always reported. Once, since while a child still has a copy of
            # the descriptor it would be reported on and on.
            self._poll.register(descriptor, select.EPOLLONESHOT)
            if self._thread is None:
                thread = Thread(target=self._run, args=(self._poll,), name="bcached hang-ups", daemon=True)
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def forget(self, descriptor: int) -> None:
        """The socket with this descriptor is about to be closed by its owner, which settles by itself."""
        if self._poll is not None:
            with contextlib.suppress(FileNotFoundError):  # it was not added
                self._poll.unregister(descriptor)

    def end_in_child(self) -> None:
        """In a child process, which has no copy of the thread: begin without one."""
        if self._poll is not None:
            self._poll.close()
        self._lock, self._poll, self._thread = RLock(), None, None

    def _run(self, poll: select.epoll) -> None:
        while True:
            for descriptor, _ in poll.poll():
                self._settle(descriptor)

    def _settle(self, descriptor: int) -> None:
        """Settle what was added; another's by now, with the same descriptor, is open and stays as it is."""
        one = self._watched.get(descriptor)
        if one is not None:
            one.settle()


hang_up_watch = HangUpWatch()
