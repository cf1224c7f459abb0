"""What a client does in several steps, without doing any of it: each step is yielded, and comes back done.

A step is a call to the daemon, or reads or writes that may run side by side. The asyncio client awaits them,
the blocking client performs them where its caller stands.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from bcached.client.attachment import Attachment
from bcached.client.gens import Gens, Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.protocol.transfers import Reads, Writes
from bcached.errors import StaleKey
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES

T = TypeVar("T")

Step: TypeAlias = Call[Any] | Reads | Writes
Plan: TypeAlias = Generator[Step, Any, T]


def mapped_gens(at: Attachment) -> Plan[Gens]:
    """The gens, mapped when first needed."""
    at.check()
    if at.gens is None:
        at.map_gens((yield verbs.map_gens(at)))
    assert at.gens is not None
    return at.gens


def now(at: Attachment) -> Plan[Instant]:
    """The moment, by the daemon's clocks: take it before you ask for a key, and judge the key by it."""
    return (yield from mapped_gens(at)).now()


def current_pointers(at: Attachment, key: Key, since: Instant) -> Plan[tuple[Pointer, ...]]:
    """Those places of the key that are good now."""
    return at.current((yield from mapped_gens(at)), key, since)


def is_current(at: Attachment, key: Key, since: Instant) -> Plan[bool]:
    """Whether a key that was good then is good now."""
    return bool((yield from current_pointers(at, key, since)))


def read(at: Attachment, key: Key, since: Instant | None = None) -> Plan[bytes]:
    """Read an extent. With since, only if it proves to be good afterwards: else StaleKey.

    Without, the bytes are those of the key's first place, which is right for what we hold ourselves.
    """
    pointers = key.pointers if since is None else (yield from current_pointers(at, key, since))
    for pointer in pointers:
        (data,) = yield Reads(((pointer, key.sectors),))
        if since is None or pointer in (yield from current_pointers(at, key, since)):
            return bytes(data)
    raise StaleKey(key, -1)


def write(at: Attachment, key: Key, data: "bytes | bytearray | memoryview") -> Plan[None]:
    """Write an extent we hold, to all its places. Even if you stop waiting, the write goes on."""
    at.check()
    view = memoryview(data).cast("B")
    if view.nbytes != key.sectors * SECTOR_BYTES:
        raise ValueError(f"the key has {key.sectors * SECTOR_BYTES} bytes, the data {view.nbytes}")
    yield Writes(((key, view),))
