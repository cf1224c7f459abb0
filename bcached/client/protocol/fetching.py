# SPDX-License-Identifier: MIT
"""Fetching: look up keys, read, and check the keys again after the read."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bcached.client.arguments import shown
from bcached.client.attachment import Attachment
from bcached.client.gens import Gens, Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.plans import Plan, mapped_gens, valid_pointers
from bcached.client.protocol.request_check import as_tuple
from bcached.client.protocol.transfers import Reads
from bcached.errors import InvalidType, StaleKey
from bcached.keys import Key, Pointer
from bcached.wire.messages import MANY_MAX, Found, Lookup, LookupMany

TRIES = 16  # consecutive stale reads: buckets are reused faster than they are read


class Piece(NamedTuple):
    """Data found in a volume, and its first sector."""

    offset: int
    data: bytes


Range = Lookup | tuple[int, int, int]  # inode, offset, sectors
RANGE_ITEMS = 3


def fetch(
    at: Attachment, inode: int, offset: int, sectors: int, *, touch: bool | None = None
) -> Plan[tuple[Piece, ...]]:
    """Look up and read what is cached of a range, in order, and valid.

    Extents whose buckets were reused during the read are looked up again.
    """
    call = verbs.lookup(at, inode, offset, sectors, touch=touch)
    gens = at.gens or (yield from mapped_gens(at))
    since = gens.now()
    found: Found = yield call
    if len(found.keys) == 1 and found.next is None:  # the common case
        (key,) = found.keys
        pointer = key.pointers[0]
        (data,) = yield Reads(((pointer, key.sectors),))
        if gens.holds(pointer, since) and at.is_connected:
            return (Piece(key.offset, data),)
    (pieces,) = yield from _fetch(at, [Lookup(inode, offset, sectors, touch=touch)], found, since)
    return pieces


def fetch_many(
    at: Attachment, ranges: Iterable[Range], *, touch: bool | None = None
) -> Plan[tuple[tuple[Piece, ...], ...]]:
    """Look up and read several ranges; returns the pieces of each, as fetch does.

    A range is (inode, offset, sectors). A thousand take one round trip.
    """
    wanted = [_lookup_of(one, touch) for one in as_tuple("ranges", ranges)]
    for start in range(0, len(wanted), MANY_MAX):
        at.check(LookupMany(tuple(wanted[start : start + MANY_MAX])))
    return tuple((yield from _fetch(at, wanted)))


def _lookup_of(one: Range, touch: bool | None) -> Lookup:
    if isinstance(one, Lookup):
        return Lookup(one.inode, one.offset, one.sectors, touch=touch if one.touch is None else one.touch)
    if not isinstance(one, tuple) or len(one) != RANGE_ITEMS:
        raise InvalidType("ranges", f"expected (inode, offset, sectors), found {shown(one)}")
    inode, offset, sectors = one
    return Lookup(inode, offset, sectors, touch=touch)


def _fetch(
    at: Attachment, wanted: Sequence[Lookup], first: Found | None = None, then: Instant | None = None
) -> Plan[list[tuple[Piece, ...]]]:
    """Returns the pieces of each range; the first look-up of a single one, and its instant, may be given.

    left holds what is still to be looked up, the next at its end.
    """
    pieces: list[list[Piece]] = [[] for _ in wanted]
    left = [(number, one) for number, one in enumerate(wanted)][::-1]
    tries = TRIES
    gens = yield from mapped_gens(at)
    while left:
        batch = left[: -MANY_MAX - 1 : -1]
        del left[-MANY_MAX:]
        since = then or gens.now()  # before the look-up: the instant at which the keys must be valid
        found = (first,) if first is not None else (yield from _look_up(at, batch))
        first = then = None
        keys = []
        for (number, request), answer in zip(batch, found, strict=True):
            keys += [(number, request, key) for key in answer.keys]
            if answer.next is not None:
                left.append((number, _rest(request, answer.next, request.offset + request.sectors)))
        pointers = [_best_pointer(at, gens, key, since) for _, _, key in keys]
        reads = [(pointer, key.sectors) for pointer, (_, _, key) in zip(pointers, keys, strict=True)]
        read = (yield Reads(reads)) if reads else ()
        for (number, request, key), pointer, data in zip(keys, pointers, read, strict=True):
            if pointer in valid_pointers(at, gens, key, since):
                pieces[number].append(Piece(key.offset, data))
                tries = TRIES
                continue
            tries -= 1
            if not tries:
                raise StaleKey(key, -1)
            left.append((number, _rest(request, key.offset, key.end)))
    return [tuple(sorted(those)) for those in pieces]


def _look_up(at: Attachment, batch: Sequence[tuple[int, Lookup]]) -> Plan[Sequence[Found]]:
    if len(batch) == 1:
        ((_, one),) = batch
        return ((yield verbs.lookup(at, one.inode, one.offset, one.sectors, touch=one.touch)),)
    found: Sequence[Found] = yield verbs.lookup_many(at, [one for _, one in batch])
    return found


def _best_pointer(at: Attachment, gens: Gens, key: Key, since: Instant) -> Pointer:
    """Returns a pointer that is valid now, if there is a choice."""
    good = valid_pointers(at, gens, key, since) if len(key.pointers) > 1 else ()
    return good[0] if good else key.pointers[0]


def _rest(request: Lookup, start: int, end: int) -> Lookup:
    return Lookup(request.inode, start, end - start, touch=request.touch)
