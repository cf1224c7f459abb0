"""The keys of a set, as requests see them: committed, looked up, made clean, invalidated.

A change is accepted in one go, with no await in it: its journal entry, the tree, the live sectors and the
reservation change together, and that order is the one in which they are replayed. All that may have to be
waited for comes before: nodes that must be read, room in the journal, buckets for the nodes to come. Then
everything is asked again, for no answer outlives an await. Whoever wants it durable waits for the entry.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcached.errors import (
    DeviceError,
    DeviceFailed,
    FormatError,
    InvalidParameter,
    LimitExceeded,
    NoFreeBuckets,
    NoSuchVolume,
    RequestError,
)
from bcached.format.bkey import HEAD_WORDS, SECTORS_MAX
from bcached.keys import OFFSET_MAX, Key, Pointer
from bcached.runtime.node_buckets import NodeBuckets
from bcached.runtime.services import Services
from bcached.state.btree import Missing, cut_at
from bcached.state.btree_node import Leaf
from bcached.state.key_rows import KeyRows
from bcached.state.live_sectors import LiveSectors
from bcached.state.reservations import Holder
from bcached.state.sector_allocator import SectorAllocator
from bcached.store.btree import Btree
from bcached.store.journal import Journal

LIMIT = 1000  # keys a look-up gives unless it is asked for fewer
DROPPED_KEYS = 256  # at once: an invalidation holds the loop meanwhile
Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
Span = tuple[int, int, int]  # inode, first sector, first sector behind


class Found(NamedTuple):
    """Keys in order, cut to the range; next is where to go on if the limit was reached before its end."""

    keys: list[Key]
    next: int | None


class Index:
    """What can be asked of the keys. Everything here may be cancelled at any await: nothing is half done."""

    def __init__(
        self,
        btree: Btree,
        journal: Journal,
        sectors: SectorAllocator,
        live: LiveSectors,
        buckets: NodeBuckets,
        services: Services,
    ) -> None:
        self.btree = btree
        self.live = live
        self.buckets = buckets
        self.last_change_seq = journal.seq  # the newest entry that may hold keys
        self.lookups = 0
        self.lookup_hits = 0
        self._tree = btree.tree
        self._journal = journal
        self._sectors = sectors
        self._services = services
        block_sectors = sectors.caches[0].geometry.block_sectors
        self._deletion_sectors = SECTORS_MAX // block_sectors * block_sectors
        services.on_refusal.append(btree.give_space)
        journal.on_durable.append(self._emptied)
        # A key in the way may take two to delete.
        self._reclaims = 0  # what the members counted when the allocators looked last
        self._dropped_at_once = min(DROPPED_KEYS, journal.commit_words // (2 * HEAD_WORDS))
        self._deletion_words = self._dropped_at_once * 2 * HEAD_WORDS

    # Committing

    def try_commit(self, holder: Holder, keys: Sequence[Key]) -> int | None:
        """Accept keys now; the seq of their entry, or None if that has to wait for something."""
        words = self._check_keys(keys)
        if not self._is_ready(_spans(keys), words) or not self._may_grow():
            self._sectors.check_commit(holder, keys)
            return None
        return self._commit(holder, keys)

    async def commit(self, holder: Holder, keys: Sequence[Key], timeout_s: float) -> int:
        """Accept keys, all of them in one entry; its seq. NoFreeBuckets if the index may not grow in time."""
        spans, clock = _spans(keys), self._services.clock
        deadline = clock() + timeout_s
        words = self._check_keys(keys)
        self._sectors.check_commit(holder, keys)
        while True:
            await self._make_ready(spans, words, deadline - clock())
            self._check_keys(keys)
            if self._may_grow():
                return self._commit(holder, keys)
            self._sectors.check_commit(holder, keys)
            await self._wait_to_grow(deadline - clock())

    def _check_keys(self, keys: Sequence[Key]) -> int:
        """Refuse what cannot be committed, whoever holds it; the words of the keys."""
        self._services.check_changeable()
        words = _words(keys)
        if words > self._journal.commit_words:
            raise LimitExceeded("commit_words", words)
        sectors, synchronous = self._sectors, self._services.options.synchronous
        for key in keys:
            if key.inode not in sectors.inodes:
                raise NoSuchVolume(key.inode)
            if not key.dirty and key.inode in sectors.always_dirty:
                raise InvalidParameter("keys", f"volume {key.inode} is flash-only: its data is dirty, always")
            if key.dirty and not synchronous:
                raise InvalidParameter("keys", "the set is not synchronous, and can keep nothing dirty")
        return words

    def _commit(self, holder: Holder, keys: Sequence[Key]) -> int:
        seq = self._sectors.commit(holder, keys, self._put)
        self._settled()
        return seq

    # Cleaning

    async def mark_clean(self, keys: Sequence[Key], timeout_s: float) -> tuple[list[bool], int]:
        """Make dirty keys clean whose pointers are still the same.

        Of each whether all of it is clean now, and the seq of the entry.
        """
        spans, deadline = _spans(keys), self._services.clock() + timeout_s
        words = 0
        while True:
            await self._make_ready(spans, words, deadline - self._services.clock())
            pieces, cleaned = self._cleanable(keys)
            needed = _words(pieces)
            if needed <= words or not pieces:
                return cleaned, self._change(pieces) if pieces else self._journal.accepted_seq
            if needed > self._journal.commit_words:
                raise LimitExceeded("commit_words", needed)
            words = needed

    def _cleanable(self, keys: Sequence[Key]) -> tuple[list[Key], list[bool]]:
        """The pieces that can be made clean, as clean keys; and of each key whether that is all of it."""
        pieces: list[Key] = []
        cleaned = []
        for key in keys:
            whole = key.offset
            if key.inode not in self._sectors.always_dirty:
                for found in self._loaded(key.inode, key.offset, key.end):
                    if found.pointers != cut_to(key, found).pointers:
                        continue
                    if found.offset == whole:
                        whole = found.end
                    if found.dirty:
                        pieces.append(Key(found.inode, found.offset, found.sectors, False, found.pointers))
            cleaned.append(whole == key.end)
        return pieces, cleaned

    async def forget_copies(self, keys: Sequence[Key], timeout_s: float) -> None:
        """Have clean keys that stand as they are name only the copies that are good: the gens of others rise.

        NoFreeBuckets if there is no room for that in time.
        """
        await self._make_ready(_spans(keys), _words(keys), timeout_s)
        found = [
            key for key in keys if not key.dirty and self._loaded(key.inode, key.offset, key.end) == [key]
        ]
        good = [now for key in found if (now := self.current(key)) is not None and now is not key]
        if good:
            self._change(good)

    # Invalidating

    async def invalidate(self, inode: int, offset: int, sectors: int, timeout_s: float) -> tuple[int, int]:
        """Drop what lies in a range, dirty or not: sectors that were live, and the seq of the last entry."""
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        dropped, seq = 0, self._journal.accepted_seq
        deadline = self._services.clock() + timeout_s
        start, end = offset, offset + sectors
        while start < end:
            left_s = deadline - self._services.clock()
            await self._make_ready([(inode, start, start + 1)], self._deletion_words, left_s)
            if inode not in self._sectors.inodes:
                raise NoSuchVolume(inode)
            if self._divides(inode, start, end) and not self._may_grow():
                await self._wait_to_grow(left_s)
                continue
            deletions, start = self._deletions(inode, start, end)
            if deletions:
                dropped += self._live_sectors(inode, deletions)
                seq = self._change(deletions)
            await asyncio.sleep(0)
        return dropped, seq

    async def dirty_sectors(self, inode: int) -> int:
        """Sectors of a volume that exist nowhere else."""
        start, count = 0, 0
        while start < OFFSET_MAX:
            leaf = await self._leaf_at(inode, start)
            count += _dirty_sectors(leaf, inode)
            start = min(leaf.end_within(inode), OFFSET_MAX)
            await asyncio.sleep(0)  # all may be in memory, and nothing wait
        return count

    async def drop_volume(self, inode: int, timeout_s: float) -> None:
        """Drop all keys of a volume, durably; nobody adds to them any more.

        NoFreeBuckets if it comes to a standstill for timeout_s; then some are gone.
        """
        start = 0
        while start < OFFSET_MAX:
            await self._make_ready([(inode, start, start + 1)], self._deletion_words, timeout_s)
            deletions, start = self._deletions(inode, start, OFFSET_MAX)
            if deletions:
                self._change(deletions)
            await asyncio.sleep(0)
        await self.flush()

    def _divides(self, inode: int, start: int, end: int) -> bool:
        """Whether a range lies within one key, which would become two.

        Nothing else that is dropped makes a leaf fuller. So a set that is full, with no bucket left for its
        index to grow, can be emptied all the same.
        """
        leaf = self._tree.find(inode, start)
        assert not isinstance(leaf, Missing)
        found = leaf.live.lookup(inode, max(start - 1, 0), end + 1, 1)
        return bool(found) and found[0].offset < start and found[0].end > end

    def _deletions(self, inode: int, start: int, end: int) -> tuple[list[Key], int]:
        """Keys that delete what the leaf at start holds before end, and where the rest begins."""
        leaf = self._tree.find(inode, start)
        assert not isinstance(leaf, Missing)
        until = min(leaf.end_within(inode), end)
        found = leaf.live.lookup(inode, start, until, self._dropped_at_once + 1)
        if len(found) > self._dropped_at_once:
            until = found.pop().offset
        deletions: list[Key] = []
        for key in found:
            begin = key.offset
            while begin < key.end:
                last = deletions[-1] if deletions else None
                if last is not None and key.end - last.offset <= self._deletion_sectors:
                    deletions[-1] = Key(inode, last.offset, key.end - last.offset, False, ())
                    break
                size = min(key.end - begin, self._deletion_sectors)
                deletions.append(Key(inode, begin, size, False, ()))
                begin += size
        return deletions, until

    def _live_sectors(self, inode: int, deletions: Sequence[Key]) -> int:
        return sum(
            key.sectors
            for deletion in deletions
            for key in self._loaded(inode, deletion.offset, deletion.end)
            if self.current(key) is not None
        )

    # Looking up

    def try_lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
    ) -> Found | None:
        """What is live in a range, now; None if a node has to be read first."""
        allocator = self._sectors
        if inode not in allocator.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        found = self._tree.lookup(inode, offset, end, limit)
        if isinstance(found, Missing):
            return None
        following = found[-1].end if len(found) == limit and found[-1].end < end else None
        keys = allocator.current(found, touch=touch and pin is None)
        self.lookups += 1
        if keys:
            if pin is not None:
                allocator.pin(pin, keys)
                if touch:
                    allocator.touch(keys)
            self.lookup_hits += 1
            if touch:
                self._services.count_reads(sum([key.sectors for key in keys]))
        return Found(keys, following)

    async def lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
    ) -> Found:
        """What is live in a range; it ends early, with `next`, where a node is not in memory."""
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        while True:
            leaf = await self._leaf_at(inode, offset)
            # As far as is in memory, but at least this leaf.
            until = min(leaf.end_within(inode), end)
            while until < end:
                following = self._tree.find(inode, until)
                if isinstance(following, Missing):
                    break
                until = min(following.end_within(inode), end)
            found = self.try_lookup(inode, offset, until - offset, limit=limit, pin=pin, touch=touch)
            if found is None:
                continue
            if found.next is None and until < end:
                if found.keys:
                    return Found(found.keys, until)
                offset = until
                continue
            return found

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End reads that were pinned."""
        self._sectors.unpin(holder, keys)
        self._services.buckets_moved()

    def current(self, key: Key) -> Key | None:
        """The key with those of its pointers that are not stale; None if none is. A dirty key holds all."""
        if len(key.pointers) == 1:
            return key if self.is_current(key.pointers[0]) else None
        pointers = tuple(filter(self.is_current, key.pointers))
        if len(pointers) == len(key.pointers):
            return key
        return Key(key.inode, key.offset, key.sectors, key.dirty, pointers) if pointers else None

    def is_current(self, pointer: Pointer) -> bool:
        """Whether a pointer has its bucket's gen."""
        return self._sectors.gen_of(pointer) == pointer.gen

    # Durability

    @property
    def durable_seq(self) -> int:
        """The newest journal entry that is durable."""
        return self._journal.durable_seq

    async def durable(self, seq: int) -> None:
        """Return when an entry is durable."""
        with as_device_failed():
            await self._journal.durable(seq)

    async def flush(self) -> int:
        """Return when all that was accepted before is durable; the seq."""
        seq = self._journal.accepted_seq
        await self.durable(seq)
        return seq

    async def write_out(self) -> None:
        """Leave nothing to replay: write out all leaves, and an entry that needs none before it."""
        try:
            await self.btree.write_all()
        except RequestError:
            if self._services.refusal is None:
                raise  # else: there were no buckets for it, and the journal has what is left
        await self._journal.commit()

    # How a change comes about

    def _change(self, keys: Sequence[Key]) -> int:
        """Keys that nobody reserved take the place of others."""
        seq = self._put(keys)
        self._settled()
        return seq

    def _put(self, keys: Sequence[Key]) -> int:
        """Keys that take the place of others; their ranges are loaded, and the journal has room."""
        seq = self._journal.append(keys)
        for key in keys:
            self._went(self.btree.insert(key, seq), seq)
            self.live.came(key)
        self._changed(seq)
        return seq

    # What moving garbage collection needs

    def is_ready_for(self, old: Key, new: Key) -> bool:
        """Whether `replace` could do its work now."""
        return self._is_ready([(old.inode, old.offset, old.end)], _words([new])) and self._may_grow()

    async def make_ready_for(self, old: Key, new: Key, timeout_s: float) -> None:
        """Wait for what `replace` still lacks, or for some of it; NoFreeBuckets after timeout_s."""
        if not self._may_grow():
            await self._wait_to_grow(timeout_s)
        await self._make_ready([(old.inode, old.offset, old.end)], _words([new]), timeout_s)

    def replace(self, holder: Holder, old: Key, new: Key) -> bool:
        """Put a reserved copy in the place of the key it was made from, if that still stands as it was."""
        if self._loaded(old.inode, old.offset, old.end) != [old]:
            return False
        self._commit(holder, [new])
        return True

    def _emptied(self, seq: int) -> None:
        """Buckets whose last keys went by this entry can be used again: nothing brings those back.

        Where dirty data went, not before that stands in no leaf and no needed entry any more: a dirty key
        that is stale makes the kernel complain, though it is overwritten further on.
        """
        if self.live.cleaned_seq >= self._journal.oldest_kept_seq:
            seq = self._journal.oldest_kept_seq - 1
        for cache in self._sectors.caches:
            cache.emptying_durable(seq)
        self._services.buckets_moved()

    def counted(self) -> list[Counts] | None:
        """Live and dirty sectors of each bucket by its keys, by member; None if not all is in memory."""
        tree = self._tree
        if any(isinstance(child, Key) for node in tree.interiors() for child in node.children):
            return None
        rows = KeyRows()
        for leaf in tree.leaves:
            rows.add(leaf.live)
        counts = []
        for device, cache in enumerate(self._sectors.caches):
            sectors = np.zeros(cache.geometry.bucket_count, np.int64)
            dirty_sectors = sectors.copy()
            for chunk in rows.chunks():
                buckets = chunk.places // cache.geometry.bucket_sectors
                chosen = chunk.devices == device
                chosen[chosen] = cache.table.gens_array[buckets[chosen]] == chunk.gens[chosen]
                np.add.at(sectors, buckets[chosen], chunk.sectors[chosen])
                chosen &= chunk.dirty
                np.add.at(dirty_sectors, buckets[chosen], chunk.sectors[chosen])
            counts.append((sectors, dirty_sectors))
        return counts

    def _went(self, removed: Sequence[Key], seq: int) -> None:
        if removed:
            self.live.went(removed, seq)

    def _changed(self, seq: int) -> None:
        self.last_change_seq = seq
        if self._tree.wanted:
            self._services.leaves_wanted()

    def _settled(self) -> None:
        """Have the allocators look again if there is anything in it for them."""
        reclaims = 0
        for cache in self._sectors.caches:
            reclaims += cache.reclaims
        if reclaims != self._reclaims:
            self._reclaims = reclaims
            self._services.buckets_moved()

    def _loaded(self, inode: int, start: int, end: int) -> list[Key]:
        found = self._tree.lookup(inode, start, end)
        assert not isinstance(found, Missing), "the caller has the range loaded"
        return found

    def _is_ready(self, spans: Iterable[Span], words: int) -> bool:
        if not self._journal.has_room(words) or self.btree.is_crowded:
            return False
        missing = self._tree.missing
        for inode, start, end in spans:  # noqa: SIM110 (a commit of one key is what there is most of)
            if missing(inode, start, end) is not None:
                return False
        return True

    async def _make_ready(self, spans: Sequence[Span], words: int, left_s: float) -> None:
        """Wait for whatever a change still lacks; it lacks nothing until the caller's next await.

        Whether memory is crowded is asked before the nodes are loaded, not after: they may be all it holds.
        """
        services, journal, btree = self._services, self._journal, self.btree
        services.check_changeable()
        if self._is_ready(spans, words):
            return
        lacks = "btree"
        try:
            async with asyncio.timeout(max(left_s, 0)):
                while btree.is_crowded:
                    services.leaves_wanted()
                    await btree.wait_for_space()
                    services.check_changeable()
                while True:
                    await self._load(spans)
                    if journal.has_room(words):
                        break
                    lacks = "journal"
                    with as_device_failed():
                        await journal.wait_for_room(words)
                    services.check_changeable()
                    lacks = "btree"
        except TimeoutError:
            raise NoFreeBuckets(lacks, int(max(left_s, 0) * 1000)) from None
        services.check_changeable()

    async def _load(self, spans: Sequence[Span]) -> None:
        with as_device_failed():
            await self.btree.load(spans)

    async def _leaf_at(self, inode: int, sector: int) -> Leaf:
        with as_device_failed():
            return await self.btree.leaf_at(inode, sector)

    def _may_grow(self) -> bool:
        return self.buckets.may_grow(self._tree.root.level)

    async def _wait_to_grow(self, left_s: float) -> None:
        await self.buckets.wait_for_split(left_s)


@contextmanager
def as_device_failed() -> Iterator[None]:
    """Tell the caller, in his own words, that a device or what is on it is in the way."""
    try:
        yield
    except (DeviceError, FormatError) as error:
        raise DeviceFailed(str(error)) from None


def _dirty_sectors(leaf: Leaf, inode: int) -> int:
    """The dirty sectors of an inode in a leaf; a key is counted once, however many copies it has."""
    rows = KeyRows()
    rows.add(leaf.live)
    count = 0
    for chunk in rows.chunks():
        chosen = chunk.where(chunk.dirty & (chunk.inodes == inode))
        _, firsts = np.unique(chosen.keys, return_index=True)
        count += int(chosen.sectors[firsts].sum())
    return count


def _spans(keys: Iterable[Key]) -> list[Span]:
    return [(key.inode, key.offset, key.end) for key in keys]


def _words(keys: Sequence[Key]) -> int:
    return sum([HEAD_WORDS + len(key.pointers) for key in keys])


def cut_to(key: Key, piece: Key) -> Key:
    """The part of a key that a piece of its range covers."""
    if piece.offset > key.offset:
        _, behind = cut_at(key, piece.offset)
        assert behind is not None
        key = behind
    return cut_at(key, piece.end)[0]
