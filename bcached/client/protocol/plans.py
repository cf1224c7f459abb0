# SPDX-License-Identifier: MIT
"""Operations of several steps, as generators: each step is yielded to the client, which performs it.

A step is a call to the daemon, or reads or writes that may run concurrently. The asyncio client awaits them,
the blocking client performs them in the caller's thread.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from bcached.client.arguments import shown
from bcached.client.attachment import Attachment
from bcached.client.gens import Gens, Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.protocol.transfers import Reads, Writes
from bcached.errors import InvalidType, StaleKey
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import FreeBucket

T = TypeVar("T")

Step: TypeAlias = Call[Any] | Reads | Writes
Plan: TypeAlias = Generator[Step, Any, T]


def mapped_gens(at: Attachment) -> Plan[Gens]:
    """Returns the gens, mapped when first needed."""
    at.check()
    return at.gens or at.map_gens((yield verbs.map_gens(at)))


def now(at: Attachment) -> Plan[Instant]:
    """Returns the present instant: take it before you look up a key, to check the key later."""
    return (yield from mapped_gens(at)).now()


def current_pointers(at: Attachment, key: Key, since: Instant) -> Plan[tuple[Pointer, ...]]:
    """Returns the key's pointers that are valid now."""
    _check(at, key, since)
    if at.gens is None and not at.is_connected:  # unmapped with the end of the connection
        return ()
    return valid_pointers(at, (yield from mapped_gens(at)), key, since)


def valid_pointers(at: Attachment, gens: Gens, key: Key, since: Instant) -> tuple[Pointer, ...]:
    """Returns the key's pointers that are valid now, if it was valid then. Call it after the read."""
    good = gens.current(key, since)
    return good if at.is_connected else ()


def is_current(at: Attachment, key: Key, since: Instant) -> Plan[bool]:
    """Whether a key that was valid then is valid now."""
    return bool((yield from current_pointers(at, key, since)))


def read(at: Attachment, key: Key, since: Instant | None = None) -> Plan[bytes]:
    """Read an extent. With since, raises StaleKey if the key is not valid after the read.

    Without, the bytes are those of the key's first pointer, which is correct for our own reservations.
    """
    _check(at, key, since)
    pointers = key.pointers if since is None else (yield from current_pointers(at, key, since))
    for pointer in pointers:
        (data,) = yield Reads(((pointer, key.sectors),))
        if since is None or pointer in (yield from current_pointers(at, key, since)):
            return bytes(data)
    raise StaleKey(key, -1)


def write(at: Attachment, key: Key, data: "bytes | bytearray | memoryview") -> Plan[None]:
    """Write an extent we hold, at all its pointers. If the caller stops waiting, the write continues."""
    _check(at, key)
    view = bytes_of(data)
    if view.nbytes != key.sectors * SECTOR_BYTES:
        raise ValueError(f"the key has {key.sectors * SECTOR_BYTES} bytes, the data {view.nbytes}")
    yield Writes(((key, view),))


def bytes_of(data: "bytes | bytearray | memoryview") -> memoryview:
    """Returns data as bytes. Raises InvalidType for anything else."""
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise InvalidType("data", f"expected bytes without gaps, found {shown(data)}") from None


def _check(at: Attachment, key: Key, since: Instant | None = None) -> None:
    """Raises an error if the client is not usable, or what it is to use is no key or no instant."""
    at.check(FreeBucket(key))
    if since is not None and not isinstance(since, Instant):
        raise InvalidType("since", f"expected an instant, as now() returns it, found {shown(since)}")
