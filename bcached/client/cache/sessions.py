# SPDX-License-Identifier: MIT
"""One session after the other: connects when needed, again after a loss, and once more in a forked child."""

import contextlib
import time
from random import Random
from threading import RLock, Thread

from bcached.client.cache.session import CacheSession
from bcached.client.forks import end_in_children
from bcached.client.protocol import verbs
from bcached.errors import ClientClosed, ConnectionLost, NoSuchVolume

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

_random = Random()  # noqa: S311 - so that the clients of one daemon do not all come back at once


class Sessions:
    """The sessions of one cache in this process."""

    def __init__(self, path: str, volume: str | int, patience_s: float) -> None:
        self.path = path
        self.lock = RLock()  # of the session and all that stores
        self.names_lost = 0  # objects that were stored, not committed, and dropped after a loss
        self._volume = volume
        self._patience_s = patience_s
        self.existing: CacheSession | None = None  # set here only
        # Offsets at which an older object may be, since a session was lost: the next one begins with them.
        self._doubtful: list[int] = []
        self._is_closed = False
        self._pause_s = 0.0  # between the last failed attempt and the next
        self._next_attempt_s = 0.0

    def current(self) -> CacheSession:
        """Returns a session. Raises ClientClosed, or ConnectionLost without a daemon."""
        session = self.existing
        if session is not None and not session.refused:
            return session
        with self.lock:
            if self._is_closed:
                raise ClientClosed(self.path)
            session = self.existing = self.existing or self._opened()
            try:
                self._drop_doubtful(session)
            except (ConnectionLost, NoSuchVolume):
                # Deleted: another process may have made it again, and stored what is older than ours.
                self.lose(session)
                session = self.existing = self._opened()
                self._drop_doubtful(session)
            return session

    @property
    def is_closed(self) -> bool:
        """Whether the cache was closed."""
        return self._is_closed

    def refuse_within_another(self) -> None:
        """Raises RuntimeError in a signal handler whose own thread is in the middle of a call."""
        if self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition does
            raise RuntimeError(f"{self.path}: called while this thread is in the middle of another call")
        if self.existing is not None:
            self.existing.channel.refuse_within_another()

    def lose(self, session: CacheSession) -> None:
        """The session's connection is closed: what was under way is neither committed nor known not to be."""
        with self.lock:
            if self.existing is not session:
                return
            session.commits.take_last()
            lost = session.commits.unsettled()
            self.names_lost += sum(not one.is_awaited for one in lost)
            self._doubtful += [one.offset for one in lost] + session.refused
            session.refused.clear()
            session.close()
            self.existing = None

    def close(self) -> None:
        """Close the session for good."""
        with self.lock:
            self._is_closed = True
            session, self.existing = self.existing, None
            if session is not None:
                session.close()

    def end_in_child(self) -> None:
        """In a child process: begin without a session; a thread that the child lacks may hold the lock."""
        self.lock = RLock()
        self.existing = None
        self._doubtful = []  # the parent's to drop

    def _opened(self) -> CacheSession:
        end_in_children(self)  # of this process, which may be a child itself
        left_s = self._next_attempt_s - time.monotonic()
        if left_s > 0:
            raise ConnectionLost(self.path, f"the next attempt is due in {left_s:.1f} s")
        try:
            session = CacheSession(self.path, self._volume, self._patience_s, self.lock, self._lose_idle)
            session.channel.settle_at_end(session)
        except ConnectionLost:
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._next_attempt_s = time.monotonic() + self._pause_s * _random.uniform(0.5, 1.0)
            raise
        self._pause_s = 0.0
        session.refused += self._doubtful  # before another thread looks anything up with it
        self._doubtful = []
        return session

    def _lose_idle(self, session: CacheSession) -> None:
        """Have a session lost whose connection has ended, even if no call is made that would notice.

        In a thread of its own: it may wait for the lock, and for a call whose replies have arrived.
        """
        with contextlib.suppress(RuntimeError):  # no thread can be started: the next call notices
            Thread(target=self._lose_after_replies, args=(session,), name="bcached end", daemon=True).start()

    def _lose_after_replies(self, session: CacheSession) -> None:
        call = verbs.describe()
        with contextlib.suppress(ConnectionLost):
            session.channel.send(call)
            session.channel.news(call)  # refused, after all replies before the end
        if not session.at.is_connected:
            self.lose(session)

    def _drop_doubtful(self, session: CacheSession) -> None:
        """Drop what may be older than an object that was stored and not committed."""
        if refused := tuple(session.refused):
            session.dropped(session.send_drops(refused))
            del session.refused[: len(refused)]
