# SPDX-License-Identifier: MIT
"""Storing: reserve, write and commit sectors, as many at once as fit one journal entry.

The limits are known from Describe and the protocol, so the division is decided before anything is reserved:
an allocation returns KEYS_IN_REPLY_MAX keys, a commit holds commit_words words and fits a request.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from bcached.client.arguments import shown
from bcached.client.attachment import Attachment
from bcached.client.protocol import verbs
from bcached.client.protocol.plans import Plan, bytes_of
from bcached.client.protocol.request_check import as_tuple, check_request
from bcached.client.protocol.transfers import Writes
from bcached.errors import BcachedError, InvalidType, LimitExceeded
from bcached.keys import Key
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import (
    KEYS_IN_REPLY_MAX,
    MANY_MAX,
    REQUEST_BYTES_MAX,
    Allocate,
    AllocateBucket,
    Commit,
    Description,
    Extent,
)

HEAD_WORDS = 2  # of a key in a journal entry, beside one for each copy
HEAD_BYTES, POINTER_BYTES = 96, 56  # of a key in a Commit, with numbers of the greatest length
ENVELOPE_BYTES = 256
MORE_KEYS = 2  # than the buckets an extent fills: the first and the last are shared with others

Data = bytes | bytearray | memoryview
Item = tuple[int, int, Data]  # inode, offset, data
ITEM_PARTS = 3


class Part(NamedTuple):
    """Data for which one allocation reserves the sectors."""

    inode: int
    offset: int
    data: memoryview


class Options(NamedTuple):
    """The options of a store."""

    dirty: bool | None
    durable: bool | None
    write_point: int | None
    replicas: int | None
    timeout_ms: int | None


def store(
    at: Attachment,
    inode: int,
    offset: int,
    data: Data,
    *,
    dirty: bool | None = None,
    durable: bool | None = None,
    write_point: int | None = None,
    replicas: int | None = None,
    timeout_ms: int | None = None,
) -> Plan[int]:
    """Reserve, write and commit whole blocks. Returns the journal entry's number.

    Atomic up to atomic_bytes; more than that in several commits, from the first block on, each atomic.
    dirty: the only copy, to be kept until marked clean; a flash-only volume's data is always dirty.
    """
    options = Options(dirty, durable, write_point, replicas, timeout_ms)
    return (yield from _store(at, [(inode, offset, data)], options))


def store_many(
    at: Attachment,
    items: Iterable[Item],
    *,
    dirty: bool | None = None,
    durable: bool | None = None,
    write_point: int | None = None,
    replicas: int | None = None,
    timeout_ms: int | None = None,
) -> Plan[int]:
    """Store several extents, each (inode, offset, data), in two round trips. Returns the entry's number.

    Atomic if their keys fit one journal entry; else in several commits, in order. An item that fits an entry
    by itself is not divided. Of overlapping items, the last one wins.
    """
    options = Options(dirty, durable, write_point, replicas, timeout_ms)
    return (yield from _store(at, items, options))


def atomic_bytes(description: Description, replicas: int = 1) -> int:
    """Returns how many bytes a store commits atomically, however they are split over buckets."""
    check_request(AllocateBucket(replicas))
    buckets = _keys_in_commit(description, replicas) - MORE_KEYS
    return max(1, buckets) * description.devices[0].bucket_bytes


def _store(at: Attachment, items: Iterable[Item], options: Options) -> Plan[int]:
    _check_options(at, options)
    parts = [_checked(at, item) for item in as_tuple("items", items)]
    _check_possible(at.description, parts, options)
    *before, last = _commits(at.description, parts, options.replicas or 1)
    stored_bytes = 0
    try:
        for commit in before:  # a durable entry makes those before it durable
            yield from _store_at_once(at, commit, options._replace(durable=False))
            stored_bytes += sum(part.data.nbytes for allocation in commit for part in allocation)
        return (yield from _store_at_once(at, last, options))
    except BcachedError as error:
        if stored_bytes:
            error.add_note(f"the first {stored_bytes} bytes are stored")
        raise


def _check_options(at: Attachment, options: Options) -> None:
    """Raises an error if the client is not usable, or an option is none: all before anything is reserved."""
    at.check(Commit((), options.durable, options.timeout_ms))
    if options.dirty is not None and not isinstance(options.dirty, bool):
        raise InvalidType("dirty", f"expected bool or None, found {shown(options.dirty)}")
    at.check(Allocate(0, 0, 1, options.write_point, None, options.replicas))


def _checked(at: Attachment, item: Item) -> Part:
    if not isinstance(item, tuple) or len(item) != ITEM_PARTS:
        raise InvalidType("items", f"expected (inode, offset, data), found {shown(item)}")
    inode, offset, data = item
    view = bytes_of(data)
    at.check(Allocate(inode, offset, max(1, view.nbytes // SECTOR_BYTES)))
    block_bytes = at.description.devices[0].block_bytes
    if not view.nbytes or view.nbytes % block_bytes:
        raise ValueError(f"the set's blocks have {block_bytes} bytes, the data {view.nbytes}")
    return Part(inode, offset, view)


def _check_possible(description: Description, parts: Sequence[Part], options: Options) -> None:
    """Refuse at once what the set could never hold: the daemon sees only a part at a time."""
    wanted = sum(part.data.nbytes for part in parts) // SECTOR_BYTES * (options.replicas or 1)
    buckets = ((one.bucket_count - one.first_bucket) * one.bucket_sectors for one in description.devices)
    if wanted > sum(buckets):
        raise LimitExceeded("sectors", wanted)


# Division into commits and allocations


def _keys_in_commit(description: Description, replicas: int) -> int:
    by_words = description.commit_words // (HEAD_WORDS + replicas)
    by_bytes = (REQUEST_BYTES_MAX - ENVELOPE_BYTES) // (HEAD_BYTES + POINTER_BYTES * replicas)
    return min(by_words, by_bytes)


def _commits(description: Description, parts: Sequence[Part], replicas: int) -> Iterator[list[list[Part]]]:
    """Yields the parts of each commit, by allocation; one empty commit if there are none."""
    bucket_bytes = description.devices[0].bucket_bytes
    most = atomic_bytes(description, replicas)
    commit: list[Part] = []
    keys = 0
    for part in parts:
        for piece in _divided(part, most):
            more = piece.data.nbytes // bucket_bytes + MORE_KEYS
            if commit and keys + more > _keys_in_commit(description, replicas):
                yield list(_allocations(commit, bucket_bytes))
                commit, keys = [], 0
            commit.append(piece)
            keys += more
    yield list(_allocations(commit, bucket_bytes))


def _allocations(parts: Sequence[Part], bucket_bytes: int) -> Iterator[list[Part]]:
    allocation: list[Part] = []
    keys = 0
    for part in parts:
        for piece in _divided(part, (KEYS_IN_REPLY_MAX - MORE_KEYS) * bucket_bytes):
            more = piece.data.nbytes // bucket_bytes + MORE_KEYS
            if allocation and (keys + more > KEYS_IN_REPLY_MAX or len(allocation) == MANY_MAX):
                yield allocation
                allocation, keys = [], 0
            allocation.append(piece)
            keys += more
    if allocation:
        yield allocation


def _divided(part: Part, most: int) -> Iterator[Part]:
    for start in range(0, part.data.nbytes, most):
        yield Part(part.inode, part.offset + start // SECTOR_BYTES, part.data[start : start + most])


# One commit


def _store_at_once(at: Attachment, allocations: Sequence[Sequence[Part]], options: Options) -> Plan[int]:
    keys: list[Key] = []
    writes = Writes(())
    try:
        data: list[memoryview] = []
        for allocation in allocations:
            for part, those in zip(allocation, (yield from _allocate(at, allocation, options)), strict=True):
                keys += those
                data += [_data_of(key, part) for key in those]
        writes = Writes(zip(keys, data, strict=True))
        if writes.jobs:
            yield writes
        committed = keys if options.dirty is None else [replace(key, dirty=options.dirty) for key in keys]
        sequence: int = yield verbs.commit(
            at, committed, durable=options.durable, timeout_ms=options.timeout_ms
        )
    except BaseException:
        # If the commit was sent it runs first, and there is nothing left to release.
        writes.when_returned(lambda: at.send_oneway(verbs.release_message(tuple(keys))))
        raise
    return sequence


def _allocate(at: Attachment, parts: Sequence[Part], options: Options) -> Plan[Sequence[tuple[Key, ...]]]:
    if len(parts) > 1:
        extents = [
            Extent(
                part.inode,
                part.offset,
                part.data.nbytes // SECTOR_BYTES,
                options.write_point,
                None,
                options.replicas,
                True,
            )
            for part in parts
        ]
        many: Sequence[tuple[Key, ...]] = yield verbs.allocate_many(
            at, extents, timeout_ms=options.timeout_ms
        )
        return many
    ((inode, offset, data),) = parts
    one: tuple[Key, ...] = yield verbs.allocate(
        at,
        inode,
        offset,
        data.nbytes // SECTOR_BYTES,
        write_point=options.write_point,
        replicas=options.replicas,
        timeout_ms=options.timeout_ms,
        whole=True,
    )
    return (one,)


def _data_of(key: Key, part: Part) -> memoryview:
    start = (key.offset - part.offset) * SECTOR_BYTES
    return part.data[start : start + key.sectors * SECTOR_BYTES]
