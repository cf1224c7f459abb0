# SPDX-License-Identifier: MIT
"""Objects by name and as bytes: what the verbs of a cache do, over one session after the other.

Cache calls it in the caller's thread. AsyncCache calls in the loop what takes no request, and all else in
threads.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from bcached.client.arguments import flags, patience, socket_path, volume_named
from bcached.client.attachment import SocketPath
from bcached.client.cache.conditional_store import ConditionalStore
from bcached.client.cache.finding.reading import StaleRead
from bcached.client.cache.finding.recall import Read
from bcached.client.cache.sender import Sender
from bcached.client.cache.session import CacheSession
from bcached.client.cache.sessions import Sessions
from bcached.client.cache.values.expiry import now_us, unexpired
from bcached.client.cache.values.names import ALL_SECTORS, offset_of
from bcached.client.cache.values.new_object import (
    Change,
    FoundObject,
    NewObject,
    found_object,
    only_if_absent,
)
from bcached.client.cache.values.object_format import (
    OBJECT_BYTES_MAX,
    PAGE_BYTES,
    RECORD,
    StoredObject,
    encoded,
    record_value,
)
from bcached.client.data.scattered_reads import LONG_BYTES
from bcached.errors import ConnectionLost, NoSuchVolume

T = TypeVar("T")

CALLS_MAX = 256  # sent before the first is answered


class Stats(NamedTuple):
    """What a cache has done in this process."""

    hits: int
    misses: int
    sets: int
    lost: int  # objects stored, and dropped since their commit was not answered before the connection ended
    pages_reread: int  # objects that only a direct read showed; see DESIGN


class Objects:
    """The objects of a volume. Thread-safe."""

    def __init__(
        self, path: SocketPath, volume: str | int, patience_s: float, *, ignore_unavailable: bool
    ) -> None:
        flags(ignore_unavailable=ignore_unavailable)
        self.path, self.volume = socket_path(path), volume_named(volume)
        self.sessions = Sessions(self.path, volume, patience(patience_s))
        self.hits = self.misses = self.sets = 0  # counted by the verbs
        self._ignore_unavailable = ignore_unavailable
        self._sender = Sender(self.sessions)
        self._lost_told = 0  # of the names lost, those a flush has raised

    # Looking up

    def recall(self, name: bytes, read: Read = os.pread, most: int = OBJECT_BYTES_MAX) -> FoundObject | None:
        """Returns the object of this name, counted as a hit, if it is known without a request.

        read, most: see Recall.known.
        """
        session = self.sessions.existing
        recalled = session.recall.known(name, read, most) if session is not None else None
        if recalled is None:
            return None
        known, value = recalled
        self.hits += 1
        return FoundObject(known.codec, value, known.expires_at_us)

    def recall_placed(self, name: bytes, read: Read) -> FoundObject | None:
        """Returns the object of this name, counted as a hit, if the daemon has told where it is."""
        session = self.sessions.existing
        stored = unexpired(session.placed.find(name, read)) if session is not None else None
        if stored is not None:
            self.hits += 1
        return found_object(stored)

    def find(self, name: bytes) -> FoundObject | None:
        """Returns the object of this name, and counts a hit or a miss."""
        return self.recall(name) or self.recall_placed(name, os.pread) or self.find_unknown(name)

    def find_unknown(self, name: bytes) -> FoundObject | None:
        """Returns what `find` does, after `recall` and `recall_placed` have returned None."""
        stored = self._run(lambda session: self._find(session, name), None)
        self._count(stored is not None, 1)
        return found_object(stored)

    def find_many(self, names: Sequence[bytes]) -> Sequence[FoundObject | None]:
        """Returns the object of each name, and counts hits and misses."""
        found = [self.recall(name) or self.recall_placed(name, os.pread) for name in names]
        unknown = [number for number, one in enumerate(found) if one is None]
        if unknown:
            rest = [names[number] for number in unknown]
            none: list[StoredObject | None] = [None] * len(rest)
            stored = self._run(lambda session: self._find_many(session, rest), none)
            self._count(sum(one is not None for one in stored), len(rest))
            for number, one in zip(unknown, stored, strict=True):
                found[number] = found_object(one)
        return found

    # Storing and dropping

    def store(self, one: NewObject, *, wait: bool = False, durable: bool = False) -> None:
        """Store an object in place of an earlier one."""
        self._run(lambda session: self._store(session, one, wait=wait, durable=durable), None)
        self.sets += 1

    def store_many(self, ones: Iterable[NewObject], *, wait: bool) -> None:
        """Store several objects, each by itself."""
        for one in ones:
            self.store(one)
        if wait:
            self.flush(durable=False)

    def add(self, one: NewObject, *, durable: bool) -> bool:
        """Store an object if there is none; returns whether it was stored."""
        session = self.sessions.existing
        if session is not None and session.recall.known(one.name, most=LONG_BYTES) is not None:
            return False
        store = ConditionalStore(self._find, one.name, only_if_absent(one), durable=durable, added=one)
        return self._run(lambda session: store.run(session, self.sessions.lock), None) is not None

    def change(self, name: bytes, changed: Change) -> NewObject | None:
        """Returns what was stored in place of an object, made from it; None if nothing was."""
        store = ConditionalStore(self._find, name, changed)
        return self._run(lambda session: store.run(session, self.sessions.lock), None)

    def touch(self, name: bytes, expires_at_us: int) -> bool:
        """Change when an object expires; returns whether it was there."""
        return self._run(lambda session: self._touch(session, name, expires_at_us), False)

    def drop(self, names: Sequence[bytes]) -> int:
        """Drop objects; returns how many there were."""
        offsets = [offset_of(name) for name in names]
        return self._run(lambda session: sum(self._drop(session, offsets)), 0)

    def drop_all(self) -> None:
        """Drop all objects of the volume."""
        self._run(self._drop_all, None)

    # All of them

    def flush(self, *, durable: bool) -> None:
        """Wait until all that was stored is committed, or durable. Raises what was lost or refused."""
        self._run(lambda session: self._flush(session, durable=durable), None)
        lost, self._lost_told = self.sessions.names_lost - self._lost_told, self.sessions.names_lost
        if lost and not self._ignore_unavailable:
            raise ConnectionLost(self.path, f"{lost} objects were not committed before it ended, and dropped")

    def stats(self) -> Stats:
        """Returns what was done since the beginning."""
        session = self.sessions.existing
        reread = session.reader.pages_reread if session is not None else 0
        return Stats(self.hits, self.misses, self.sets, self.sessions.names_lost, reread)

    def close(self) -> None:
        """Wait until all that was stored is committed, and disconnect. Idempotent."""
        self.sessions.refuse_within_another()
        self._sender.close()
        session = self.sessions.existing
        try:
            if session is not None:
                with self.sessions.lock, session.undivided:
                    session.commits.drain()
                    session.release_leases()
                    session.commits.raise_error()
        except ConnectionLost:
            if not self._ignore_unavailable:
                raise
        finally:
            self.sessions.close()

    # Inside

    def _run(self, work: Callable[[CacheSession], T], unavailable: T) -> T:
        """Returns what the work does with a session.

        Once more with a new one if the connection was lost, or if the volume was deleted: by its label it is
        found or made again.
        """
        self.sessions.refuse_within_another()
        try:
            session = self.sessions.current()
            try:
                return work(session)
            except (ConnectionLost, NoSuchVolume):
                self.sessions.lose(session)
            return work(self.sessions.current())
        except ConnectionLost:
            if self._ignore_unavailable and not self.sessions.is_closed:
                return unavailable
            raise

    def _count(self, hits: int, wanted: int) -> None:
        """Count look-ups."""
        self.hits += hits
        self.misses += wanted - hits

    def _find(self, session: CacheSession, name: bytes) -> StoredObject | None:
        found = self._find_own(session, name) if session.commits.newest else None
        try:
            return unexpired(found or self._find_known(session, name))
        except StaleRead:
            return unexpired(session.find(name, offset_of(name)))

    def _find_known(self, session: CacheSession, name: bytes) -> StoredObject | None:
        """Returns the object, or None for a miss. Raises StaleRead if that takes a look-up."""
        position = session.positions.get(name)
        if position is None:
            raise StaleRead
        try:
            return session.find_known(name, position)
        except StaleRead:
            session.positions.forget(name)
            raise

    def _find_own(self, session: CacheSession, name: bytes) -> StoredObject | None:
        """Returns an object on its way to the index, if there is one still when the answers are read.

        The answer to its commit may be behind others that the daemon lets wait. So when the slot has changed
        since it was sent, it may be committed, and a later object in its place: that is waited for.
        """
        offset = offset_of(name)
        if offset not in session.commits.newest:
            return None
        with self.sessions.lock, session.undivided:
            session.commits.poll()
            pending = session.commits.newest.get(offset)
            if pending is None:
                return None
            may_be_committed = pending.is_sent and pending.version != session.version_at(offset)
        if may_be_committed:
            session.commits.settle(pending)
            return None
        return session.find_own(name, pending)

    def _find_many(self, session: CacheSession, names: Sequence[bytes]) -> list[StoredObject | None]:
        if session.commits.newest:
            with self.sessions.lock, session.undivided:
                session.commits.drain()
        found: dict[bytes, StoredObject | None] = {}
        for name in names:
            with contextlib.suppress(StaleRead):
                found[name] = self._find_known(session, name)
        unknown = [name for name in dict.fromkeys(names) if name not in found]
        found.update(zip(unknown, session.find_many(unknown), strict=True))
        return [unexpired(found[name]) for name in names]

    def _store(self, session: CacheSession, one: NewObject, *, wait: bool, durable: bool) -> None:
        parts, seal = session.encoded(one)
        with self.sessions.lock, session.undivided:
            session.commits.raise_error()
            pending = session.store(one.name, parts, seal, wait=wait, durable=durable)
            if not (wait or durable) and session.commits.has_gathered:
                self._sender.want()
        if wait or durable:
            session.commits.finish(pending)

    def _touch(self, session: CacheSession, name: bytes, expires_at_us: int) -> bool:
        with self.sessions.lock, session.undivided:
            session.commits.drain()
            found = unexpired(session.find(name, offset_of(name)))
            if found is None:
                return False
            block_bytes = max(PAGE_BYTES, session.block_bytes)
            value = record_value(found.seal.crc)
            record, _ = encoded(name, RECORD, value, now_us(), expires_at_us, block_bytes)
            pending = session.store_record(name, record)
        session.commits.finish(pending)
        return True

    def _drop(self, session: CacheSession, offsets: list[int]) -> list[bool]:
        dropped = []
        for start in range(0, len(offsets), CALLS_MAX):
            with self.sessions.lock, session.undivided:
                calls = session.send_drops(offsets[start : start + CALLS_MAX])
            dropped += session.dropped(calls)
        return dropped

    def _drop_all(self, session: CacheSession) -> None:
        with self.sessions.lock, session.undivided:
            session.drop_all(ALL_SECTORS)

    def _flush(self, session: CacheSession, *, durable: bool) -> None:
        with self.sessions.lock, session.undivided:
            session.commits.drain()
            if durable:
                session.begin_page()
        if durable:
            session.flush()
        with self.sessions.lock, session.undivided:
            session.commits.raise_error()
