# SPDX-License-Identifier: MIT
"""Sends the keys that have gathered if the program stores nothing more that would send them.

Without a close, what has gathered is sent by the end of the cache (when it is collected), of the program, or
of a child that multiprocessing began: those end without atexit.
"""

import atexit
import os
import sys
import time
import weakref
from contextlib import suppress
from threading import Event, Thread

from bcached.client.cache.sessions import Sessions
from bcached.client.forks import end_in_children
from bcached.errors import BcachedError, ConnectionLost

ANSWERS_S = 2.0  # how long the end of a process waits for answers, at most
PAUSE_S = 0.01  # more than a program that goes on storing takes: its next store sends, and wakes no thread


class Sender:
    """A thread, started when the first keys gather; one in each process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._wanted = Event()
        self._thread: Thread | None = None
        self._is_closed = False

    def want(self) -> None:
        """Have what has gathered sent soon; at once if no thread would live to do it."""
        if self._thread is None:
            self._begin()
        if self._thread is None or _process.has_ended:
            send_rest(self._sessions)
        elif not self._wanted.is_set():
            self._wanted.set()

    def _begin(self) -> None:
        """Start the thread, unless the process has none left, or its interpreter is ending."""
        if _process.note(self._sessions):
            end_in_children(self)
            weakref.finalize(self, _end, self._sessions, self._wanted, os.getpid()).atexit = False
        thread = Thread(
            target=_run, args=(weakref.ref(self), self._wanted), name="bcached cache", daemon=True
        )
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        _process.forget(self._sessions)

    def end_in_child(self) -> None:
        """In a child process: it has no copy of the thread."""
        _process.forget(self._sessions)
        self._thread, self._wanted = None, Event()

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


def send_rest(sessions: Sessions) -> None:
    """Send what has gathered, without telling of a refusal: nothing is left that could be told.

    A process that ended before the answers might lose more than them: what the socket had no room for, and
    what is to be repeated object by object, since it was too much for one entry.
    """
    session = sessions.existing
    if session is not None:
        with sessions.lock, suppress(BcachedError):
            session.commits.settle_all(ANSWERS_S)


def _end(sessions: Sessions, wanted: Event, process: int) -> None:
    """A sender was collected: its thread ends, and what has gathered is sent before its connection goes."""
    if os.getpid() == process:  # else a child collects what it inherited
        send_rest(sessions)
        wanted.set()
    _process.forget(sessions)


class _Process:
    """The sessions of this process that have senders, and its end."""

    def __init__(self) -> None:
        self.has_ended = False
        self._noted: set[Sessions] = set()  # also those whose sender is being collected, in another thread
        self._prepared = 0  # the process whose end multiprocessing will tell
        atexit.register(self.end)

    def note(self, sessions: Sessions) -> bool:
        """Have what has gathered sent at the end of the process; returns whether that is new."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None and self._prepared != os.getpid():
            self._prepared = os.getpid()
            util.Finalize(None, self.end, exitpriority=0)
        is_new = sessions not in self._noted
        self._noted.add(sessions)
        return is_new

    def forget(self, sessions: Sessions) -> None:
        """There is nothing to be sent any more."""
        self._noted.discard(sessions)

    def end(self) -> None:
        """Send what has gathered, and from here on what is stored, at once."""
        self.has_ended = True
        for one in list(self._noted):
            send_rest(one)


_process = _Process()


def _run(sender: "weakref.ref[Sender]", wanted: Event) -> None:
    """Without a reference to the sender while it waits: a cache that is not closed can still be collected."""
    while True:
        wanted.wait()
        time.sleep(PAUSE_S)
        one = sender()
        if one is None or not one.send():
            return
        del one
