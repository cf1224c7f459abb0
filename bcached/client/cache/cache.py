# SPDX-License-Identifier: MIT
"""The verbs of a cache."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

from bcached.client.attachment import SOCKET_PATH
from bcached.client.cache.expiry import expiry_us, now_us, unexpired
from bcached.client.cache.memoizing import MISSING, memoized
from bcached.client.cache.names import ALL_SECTORS, RECORD_AT, name_bytes, offset_of
from bcached.client.cache.object_format import (
    PAGE_BYTES,
    RECORD,
    StoredObject,
    encoded,
    record_value,
    value_at,
)
from bcached.client.cache.reading import StaleRead
from bcached.client.cache.sender import Sender
from bcached.client.cache.serializers import Serializer, Values
from bcached.client.cache.session import Session
from bcached.client.cache.sessions import Sessions
from bcached.errors import ConnectionLost, NoSuchVolume

P = ParamSpec("P")
T = TypeVar("T")
Name = str | bytes
UNKNOWN = StoredObject(0, b"", 0, 0, 0)


class Stats(NamedTuple):
    """What a cache has done in this process."""

    hits: int
    misses: int
    sets: int
    lost: int  # objects stored, and dropped since their commit was not answered before the connection ended
    pages_reread: int  # objects that only a direct read showed; see DESIGN


class Cache:
    """Objects by name, in one volume of a set, shared by all processes that open it.

    A value read is the last one stored or a miss: never another name's, never an older one after
    set(wait=True) has returned, never a part; each is verified by checksum and name. Space is reclaimed by
    the daemon, so any object may be gone at any time. Threads may share a cache; a forked child connects its
    own session with the first call.
    """

    def __init__(
        self,
        path: str = SOCKET_PATH,
        volume: str | int = "cache",
        *,
        serializer: str | Serializer = "msgpack",
        ignore_unavailable: bool = False,
        patience_s: float = 0.0,
    ) -> None:
        """Connects with the first call.

        volume: its label, or its inode. serializer: of values that are not bytes or str: "msgpack", "pickle"
        (only among trusted programs), or an object with dumps and loads. ignore_unavailable: without a daemon
        look-ups are misses and other calls do nothing, instead of ConnectionLost.
        """
        self.path = path
        self._values = Values(serializer)
        self._ignore_unavailable = ignore_unavailable
        self._sessions = Sessions(path, volume, patience_s)
        self._sender = Sender(self._sessions)
        self._hits = self._misses = self._sets = 0
        self._lost_told = 0  # of the names lost, those a flush has raised

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    def get(self, name: Name, default: Any = None) -> Any:
        """Returns the value; the default without one."""
        found = self._found(name_bytes(name))
        return default if found is None else self._values.decode(found.codec, found.value)

    def get_with_expiry(self, name: Name, default: Any = None) -> tuple[Any, float | None]:
        """Returns the value and the seconds until it expires, None for never; (default, None) without one."""
        found = self._found(name_bytes(name))
        if found is None:
            return default, None
        left_s = (found.expires_at_us - now_us()) / 1e6 if found.expires_at_us else None
        return self._values.decode(found.codec, found.value), left_s

    def get_many(self, names: Iterable[Name]) -> dict[Name, Any]:
        """Returns the values that were found, by name."""
        wanted = [(name, key, offset_of(key)) for name in names for key in (name_bytes(name),)]
        objects: list[StoredObject | None] = self._run(
            lambda session: self._find_many(session, [one[1:] for one in wanted]), []
        )
        self._count(sum(one is not None for one in objects), len(wanted))
        pairs = zip(wanted, objects, strict=False)  # no objects without a daemon
        return {one[0]: self._values.decode(it.codec, it.value) for one, it in pairs if it is not None}

    def __contains__(self, name: Name) -> bool:
        return self._found(name_bytes(name)) is not None

    def __getitem__(self, name: Name) -> Any:
        value = self.get(name, MISSING)
        if value is MISSING:
            raise KeyError(name)
        return value

    # Storing

    def set(
        self,
        name: Name,
        value: Any,
        *,
        expire: float | None = None,
        wait: bool = False,
        durable: bool = False,
    ) -> None:
        """Store a value, in place of an earlier one.

        It returns when the value is written and its commit is sent or about to be: this process sees it at
        once, others within milliseconds. wait: return when all see it; durable: when it also survives a power
        cut. expire: seconds from now; an expired value is a miss. Raises ValueError for more than 64 MiB, or
        than the set can commit at once. A refusal by the daemon is raised by the call that waits, or by the
        next one that stores, or by flush().
        """
        key, (codec, data) = name_bytes(name), self._values.encode(value)
        expires_at_us = expiry_us(expire)
        self._run(
            lambda session: self._store(session, key, codec, data, expires_at_us, wait=wait, durable=durable),
            None,
        )
        self._sets += 1

    def __setitem__(self, name: Name, value: Any) -> None:
        self.set(name, value)

    def add(self, name: Name, value: Any, *, expire: float | None = None, durable: bool = False) -> bool:
        """Store a value if there is none, for all processes; returns whether it was stored.

        An expired value is removed first: of several callers that find one at the same moment more than one
        may store.
        """
        key, (codec, data) = name_bytes(name), self._values.encode(value)
        expires_at_us = expiry_us(expire)
        return self._run(
            lambda session: self._add(session, key, codec, data, expires_at_us, durable=durable), False
        )

    def set_many(
        self,
        values: Mapping[str, Any] | Mapping[bytes, Any] | Iterable[tuple[Name, Any]],
        *,
        expire: float | None = None,
        wait: bool = False,
    ) -> None:
        """Store several values; each is stored by itself."""
        pairs: Iterable[tuple[Name, Any]] = values.items() if isinstance(values, Mapping) else values
        for name, value in pairs:
            self.set(name, value, expire=expire)
        if wait:
            self.flush(durable=False)

    def touch(self, name: Name, expire: float | None = None) -> bool:
        """Change when a value expires, from now on, to never with None; returns whether it was there.

        Another process sees it when this returns. A value stored meanwhile keeps its own expiry.
        """
        key, expires_at_us = name_bytes(name), expiry_us(expire)
        return self._run(lambda session: self._touch(session, key, expires_at_us), False)

    def memoize(
        self, *, expire: float | None = None, typed: bool = False, name: str | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Returns a decorator that keeps a function's results, by what msgpack makes of its arguments.

        typed: arguments of different types are different. name: in place of the function's module and name.
        """
        return lambda function: memoized(self, function, expire=expire, typed=typed, name=name)

    # Dropping

    def delete(self, name: Name) -> bool:
        """Drop a value; returns whether there was one, perhaps an expired one."""
        return self.delete_many((name,)) > 0

    def delete_many(self, names: Iterable[Name]) -> int:
        """Drop several values; returns how many there were."""
        offsets = [offset_of(name_bytes(name)) for name in names]
        return self._run(lambda session: sum(self._drop(session, offsets)), 0)

    def __delitem__(self, name: Name) -> None:
        if not self.delete(name):
            raise KeyError(name)

    def pop(self, name: Name, default: Any = None) -> Any:
        """Drop a value and return it. Of several callers at the same time one gets it."""
        value = self.get(name, MISSING)
        return value if value is not MISSING and self.delete(name) else default

    def clear(self) -> None:
        """Drop all values, of all processes."""
        self._run(self._drop_all, None)

    # The cache itself

    def flush(self, *, durable: bool = True) -> None:
        """Wait until all that was stored is visible to all processes and, with durable, survives a power cut.

        Raises ConnectionLost if objects were lost since the last flush, or the first refusal.
        """
        self._run(lambda session: self._flush(session, durable=durable), None)
        lost, self._lost_told = self._sessions.names_lost - self._lost_told, self._sessions.names_lost
        if lost and not self._ignore_unavailable:
            raise ConnectionLost(self.path, f"{lost} objects were not committed before it ended, and dropped")

    def stats(self) -> Stats:
        """Returns what this cache has done since it was made."""
        session = self._sessions.existing
        reread = session.reader.pages_reread if session is not None else 0
        return Stats(self._hits, self._misses, self._sets, self._sessions.names_lost, reread)

    def close(self) -> None:
        """Wait until all that was stored is committed, and disconnect. Idempotent."""
        self._sender.close()
        session = self._sessions.existing
        try:
            if session is not None:
                with self._sessions.lock:
                    session.commits.drain()
                    session.commits.raise_error()
        except ConnectionLost:
            if not self._ignore_unavailable:
                raise
        finally:
            self._sessions.close()

    # Inside

    def _run(self, work: Callable[[Session], T], unavailable: T) -> T:
        """Returns what the work does with a session.

        Once more with a new one if the connection was lost, or if the volume was deleted: by its label it is
        found or made again.
        """
        try:
            session = self._sessions.current()
            try:
                return work(session)
            except (ConnectionLost, NoSuchVolume):
                self._sessions.lose(session)
            return work(self._sessions.current())
        except ConnectionLost:
            if self._ignore_unavailable and not self._sessions.is_closed:
                return unavailable
            raise

    def _found(self, name: bytes) -> StoredObject | None:
        offset = offset_of(name)
        found = self._known(name, offset)
        if found is UNKNOWN:
            found = self._run(lambda session: self._find(session, name, offset), None)
        self._count(found is not None, 1)
        return found

    def _known(self, name: bytes, offset: int) -> StoredObject | None:
        """Returns what is known without a request, at the least cost; else UNKNOWN, and _find finds out."""
        session = self._sessions.existing
        if session is None or session.refused or offset in session.commits.newest:
            return UNKNOWN
        position = session.positions.get(offset)
        if position is None:
            return UNKNOWN
        try:
            return unexpired(session.recall(name, offset, position))
        except (StaleRead, ConnectionLost):
            return UNKNOWN

    def _count(self, hits: int, wanted: int) -> None:
        self._hits += hits
        self._misses += wanted - hits

    def _find(self, session: Session, name: bytes, offset: int) -> StoredObject | None:
        found = self._find_own(session, name, offset) if session.commits.newest else None
        if found is not None:
            return unexpired(found)
        position = session.positions.get(offset)
        if position is not None:
            try:
                return unexpired(session.recall(name, offset, position))
            except StaleRead:
                session.positions.forget(offset)
        return unexpired(session.find(name, offset))

    def _find_own(self, session: Session, name: bytes, offset: int) -> StoredObject | None:
        """Returns an object on its way to the index, if there is one still when the answers are read."""
        if offset not in session.commits.newest:
            return None
        with self._sessions.lock:
            session.commits.poll()
            pending = session.commits.newest.get(offset)
        return session.find_own(name, pending) if pending is not None else None

    def _find_many(self, session: Session, wanted: list[tuple[bytes, int]]) -> list[StoredObject | None]:
        if session.commits.newest:
            with self._sessions.lock:
                session.commits.drain()
        return [unexpired(one) for one in session.find_many(wanted)]

    def _store(
        self,
        session: Session,
        name: bytes,
        codec: int,
        value: bytes | memoryview,
        expires_at_us: int,
        *,
        wait: bool,
        durable: bool,
    ) -> None:
        parts = _parts(session, name, codec, value, expires_at_us)
        with self._sessions.lock:
            session.commits.raise_error()
            pending = session.store(offset_of(name), parts, durable=durable)
            if wait or durable:
                session.commits.finish(pending)
            elif session.commits.has_gathered:
                self._sender.want()

    def _add(
        self,
        session: Session,
        name: bytes,
        codec: int,
        value: bytes | memoryview,
        expires_at_us: int,
        *,
        durable: bool,
    ) -> bool:
        parts, offset = _parts(session, name, codec, value, expires_at_us), offset_of(name)
        with self._sessions.lock:
            session.commits.drain()
            if self._find(session, name, offset) is not None:
                return False
            if session.store_if_absent(offset, parts, durable=durable):
                return True
            if self._find(session, name, offset) is not None:  # stored meanwhile
                return False
            session.drop([offset])  # expired, another name's, or evicted in part
            return session.store_if_absent(offset, parts, durable=durable)

    def _touch(self, session: Session, name: bytes, expires_at_us: int) -> bool:
        offset = offset_of(name)
        with self._sessions.lock:
            session.commits.drain()
            found = unexpired(session.find(name, offset))
            if found is None:
                return False
            block_bytes = max(PAGE_BYTES, session.block_bytes)
            value = record_value(found.crc)
            parts = encoded(name, RECORD, value, now_us(), expires_at_us, block_bytes)
            session.store_record(offset + RECORD_AT, parts)
            return True

    def _drop(self, session: Session, offsets: list[int]) -> list[bool]:
        with self._sessions.lock:
            return session.drop(offsets)

    def _drop_all(self, session: Session) -> None:
        with self._sessions.lock:
            session.drop_all(ALL_SECTORS)

    def _flush(self, session: Session, *, durable: bool) -> None:
        with self._sessions.lock:
            session.commits.drain()
            if durable:
                session.flush()
            session.commits.raise_error()


def _parts(
    session: Session, name: bytes, codec: int, value: bytes | memoryview, expires_at_us: int
) -> Sequence[bytes | memoryview]:
    """Returns an object's bytes. Raises ValueError if they are more than the set commits at once."""
    length = value_at(len(name), len(value)) + len(value)
    if length > session.object_bytes_max:
        raise ValueError(
            f"an object of this set has at most {session.object_bytes_max} bytes, this one {length}: "
            "store it in parts"
        )
    return encoded(name, codec, value, now_us(), expires_at_us, session.block_bytes)
