# SPDX-License-Identifier: MIT
"""A store that depends on what is there: adds, and changes of values.

It reads the slot's change counter, looks the object up, decides, and commits on condition that the counter
has not changed. Evictions change no counter, and need not: what is left of an object that lost a part is
nothing to any reader, and the commit removes it. So of several callers that find nothing one stores.

A short object that is to be added, and of which nothing is known, is not looked up: it is committed on
condition that nothing is in its slot. If something is, it may have expired, and all is done as above.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from bcached.client.cache.commits import Pending
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.names import offset_of
from bcached.client.cache.values.new_object import Change, NewObject, found_object
from bcached.client.cache.values.object_format import StoredObject

AT_ONCE_BYTES = 1 << 16  # written in vain at little cost

Find = Callable[[CacheSession, bytes], StoredObject | None]


class ConditionalStore:
    """One call of a verb, on one connection and, if that is lost, on the next.

    The commit that was under way when a connection ended may have been carried out. Then the object that the
    next one finds is this call's own, which is recognised by its place and its checksum: dropping it would
    let another caller's add succeed as well, and a change would be made twice.
    """

    def __init__(
        self,
        find: Find,
        name: bytes,
        change: Change,
        *,
        durable: bool = False,
        added: NewObject | None = None,
    ) -> None:
        """added: what the change stores where there is nothing, if it does nothing else."""
        self._added = added if added is not None and len(added.value) <= AT_ONCE_BYTES else None
        self._find = find
        self._name = name
        self._change = change
        self._durable = durable
        self._attempt: tuple[NewObject, Pending] | None = None  # the last one, unless it was refused

    def run(self, session: CacheSession, lock: AbstractContextManager[object]) -> NewObject | None:
        """Returns what was stored; None if the change was to leave what there was."""
        while True:
            with lock, session.undivided:
                if offset_of(self._name) in session.commits.newest:
                    session.commits.drain()
            version = session.version_of(self._name)  # before the look-up
            if (added := self._to_be_added(session, version)) is not None:
                if self._store(session, lock, added, None):
                    return added
                continue
            found = self._find(session, self._name)
            if self._attempt is not None and self._is_own(session, found, self._attempt[1]):
                return self._made_durable(session, self._attempt[0])
            one = self._change(found_object(found))
            if one is None or self._store(session, lock, one, version):
                return one

    def _to_be_added(self, session: CacheSession, version: int) -> NewObject | None:
        """Returns what to add without a look-up, once; None if something is known, or may be our own."""
        added, self._added = self._added, None
        if added is None or self._attempt is not None:
            return None
        position = session.positions.get(self._name)
        if position is not None and position.version == version:
            return None if position.keys else added
        return added if session.placed.find(self._name) is None else None

    def _store(
        self, session: CacheSession, lock: AbstractContextManager[object], one: NewObject, version: int | None
    ) -> bool:
        """Returns whether it was stored: if the slot has this version or, without one, if it is empty."""
        parts, seal = session.encoded(one)
        if version is not None and session.version_of(self._name) != version:
            return False
        with lock, session.undivided:
            pending = session.written(self._name, parts, seal, durable=self._durable)
            self._attempt = one, pending
            if version is None:
                is_sent = session.commits.send_if_absent(pending, durable=self._durable)
            else:
                is_sent = session.commits.send_if_unchanged(pending, version, durable=self._durable)
        if is_sent:
            session.commits.finish(pending)
        if not pending.was_committed:
            self._attempt = None
            session.release(pending)
        return pending.was_committed

    def _is_own(self, session: CacheSession, found: StoredObject | None, attempt: Pending) -> bool:
        if found is None or attempt.seal is None or found.seal.crc != attempt.seal.crc:
            return False
        position = session.positions.get(self._name)
        return position is not None and position.keys[0].pointers == attempt.keys[0].pointers

    def _made_durable(self, session: CacheSession, one: NewObject) -> NewObject:
        if self._durable:
            session.flush()
        return one
