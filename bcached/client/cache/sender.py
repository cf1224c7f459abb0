# SPDX-License-Identifier: MIT
"""Sends the keys that have gathered if the program stores nothing more that would send them."""

import atexit
import time
import weakref
from contextlib import suppress
from threading import Event, Thread

from bcached.client.cache.sessions import Sessions
from bcached.client.forks import end_in_children
from bcached.errors import BcachedError, ConnectionLost

PAUSE_S = 0.01  # more than a program that goes on storing takes: its next store sends, and wakes no thread


class Sender:
    """A thread, started when the first keys gather; one in each process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._wanted = Event()
        self._thread: Thread | None = None
        self._is_closed = False

    def want(self) -> None:
        """Have what has gathered sent soon."""
        if self._thread is None:
            end_in_children(self)
            _started.add(self)
            self._thread = Thread(
                target=_run, args=(weakref.ref(self), self._wanted), name="bcached cache", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._wanted.set).atexit = False
        if not self._wanted.is_set():
            self._wanted.set()

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def end_in_child(self) -> None:
        """In a child process: it has no copy of the thread."""
        self._thread, self._wanted = None, Event()

    def send_at_exit(self) -> None:
        """Send what has gathered: the thread does not outlive the program."""
        session = self._sessions.existing
        if session is not None:
            with self._sessions.lock, suppress(BcachedError):
                session.commits.send()

    def send(self) -> bool:
        """Send what has gathered if that is due; returns whether to go on."""
        self._wanted.clear()
        session = self._sessions.existing
        if session is not None:
            with self._sessions.lock:
                try:
                    session.commits.poll()
                    if session.commits.is_due:
                        session.commits.send()
                except ConnectionLost:
                    self._sessions.lose(session)
                if session.commits.has_gathered:
                    self._wanted.set()
        return not self._is_closed


_started: "weakref.WeakSet[Sender]" = weakref.WeakSet()


@atexit.register
def _send_at_exit() -> None:
    for one in list(_started):
        one.send_at_exit()


def _run(sender: "weakref.ref[Sender]", wanted: Event) -> None:
    """Without a reference to the sender while it waits: a cache that is not closed can still be collected."""
    while True:
        wanted.wait()
        time.sleep(PAUSE_S)
        one = sender()
        if one is None or not one.send():
            return
        del one
