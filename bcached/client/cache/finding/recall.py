# SPDX-License-Identifier: MIT
"""Reads known objects again without a request: the path of a hit.

What is not certain is not decided here: the caller then looks it up. An object is read, and *then* checked,
in this order (docs/client.md says why): the gens of its buckets, the header of the map of gens, the
connection, and the change counter last: so the object was the newest one when it was read. The checksum of
its bytes, its header and its name must be those with which it was stored, or verified first.
"""

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, Protocol

from fastcrc import crc64

from bcached.client.cache.finding.known_object import KnownExtent, KnownObject
from bcached.client.cache.finding.positions import Position, Positions
from bcached.client.cache.finding.read_reports import CALLS, Hits
from bcached.client.cache.values.expiry import now_us
from bcached.client.cache.values.object_format import OBJECT_BYTES_MAX
from bcached.client.data.scattered_reads import LONG_BYTES, FileRange, ScatteredRead
from bcached.keys import Key
from bcached.wire.gen_map import GC_EPOCH_WORD, LIFE_WORD

Read = Callable[[int, int, int], bytes]  # descriptor, length, byte of the device


class UnderWay(Protocol):
    """An object of ours that is not known to be committed."""

    @property
    def keys(self) -> Sequence[Key]:
        """Returns where it is."""

    @property
    def known(self) -> Position | None:
        """Returns as what it is read."""

    @property
    def is_sent(self) -> bool:
        """Whether its commit is sent: then another's may follow it before we know."""


class Recall:
    """Thread-safe, without a lock: nothing that it uses changes but by one step."""

    def __init__(
        self,
        positions: Positions,
        under_way: Mapping[int, UnderWay],
        refused: Sized,
        counters: memoryview,
        hang_ups: Callable[[float], object],
        hits: Hits,
    ) -> None:
        self._positions = positions
        self._under_way = under_way  # by slot
        self._refused = refused  # slots in which an older object may be
        self._counters = counters
        self._hang_ups = hang_ups  # returns something if the connection has ended; raises once it is closed
        self._hits = hits

    def known(
        self, name: bytes, read: Read = os.pread, most: int = OBJECT_BYTES_MAX
    ) -> tuple[KnownObject, bytes] | None:
        """Returns the newest object of this name, and its value; None if that is not known for certain.

        read: may raise OSError for bytes that are not in memory. most: bytes; a longer object is not read.
        """
        one: Any = self._positions.young.get(name) or self._positions.get(name)
        if (
            one is None
            or (member := one.member) is None
            or self._refused
            # Once more at the end, where it counts.
            or (self._counters[one.counter] != one.version and not self._is_unsent(one))
            or (
                self._under_way  # an own object that is not committed yet has the counter of those before it
                and (own := self._under_way.get(one.offset)) is not None
                and own.known is not one
            )
            or (one.expires_at_us and one.expires_at_us <= now_us())
        ):
            return None
        try:
            value: bytes | None
            if one.others is not None:
                value = _long_value(one, read) if one.bytes <= most else None
            else:
                data = read(member.path.descriptor, one.length, one.at)
                sound = crc64.xz(data) == one.crc and data.startswith(one.head)
                value = data[one.value_at :] if sound else None
            if (
                value is None
                or member.gens[one.bucket] != one.gen
                or member.words[LIFE_WORD] != one.life
                or member.words[GC_EPOCH_WORD] != one.gc_epoch
                or self._hang_ups(0)
                or (self._counters[one.counter] != one.version and not self._is_unsent(one))
            ):
                return None
        except (OSError, ValueError):  # ValueError: the connection is closed
            return None
        hits = self._hits
        if one.reported_in is not hits.interval:
            one.reported_in = hits.interval
            hits.touched.add((member.device, one.bucket, one.gen))
        hits.bytes += len(value)
        hits.count += 1
        if not hits.count % CALLS:
            hits.report_if_due()
        return one, value

    def _is_unsent(self, one: KnownObject) -> bool:
        """Whether it is our own object that waits to be committed: it is newer than what others commit."""
        own = self._under_way.get(one.offset)
        return own is not None and own.known is one and not own.is_sent


def _long_value(one: KnownObject, read: Read) -> bytes | None:
    """Returns the value of an object that is long or in several extents, if its bytes are sound.

    That the first extent is still valid is left to the caller.
    """
    if one.bytes > LONG_BYTES:
        return _scattered_value(one)
    descriptor, at, others = one.member.path.descriptor, one.value_at, one.others
    head = read(descriptor, at, one.at)
    if head != one.head:
        return None
    value = read(descriptor, one.length - at, one.at + at) if one.length > at else b""
    if others:
        value = b"".join([value, *[read(it.member.path.descriptor, it.length, it.at) for it in others]])
    if crc64.xz(value, crc64.xz(head)) != one.crc:
        return None
    return value if not others or all(it.is_valid for it in others) else None


def _scattered_value(one: KnownObject) -> bytes | None:
    others = one.others
    assert others is not None, "a long object"
    length = one.length - one.value_at + sum(it.length for it in others)
    read = ScatteredRead(one.value_at, length, crc64.xz)
    extents: list[KnownObject | KnownExtent] = [one, *others]
    read.fill([FileRange(it.member.path.descriptor, it.at, it.length) for it in extents])
    if read.head != one.head or read.checksum(length) != one.crc:
        return None
    return read.value(length) if all(it.is_valid for it in others) else None
