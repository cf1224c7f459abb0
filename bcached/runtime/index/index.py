# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a set, as requests change them: committed, made clean, invalidated, made durable.

Each change waits for what it lacks and is then made without an await (index_writer.py). A caller that needs
it durable waits for its journal entry.
"""

import asyncio
from collections.abc import Container, Sequence

from bcached.errors import InvalidParameter, LimitExceeded, NoSuchVolume, RequestError
from bcached.format import bkey
from bcached.format.bkey import HEAD_WORDS
from bcached.keys import KEY_SECTORS_MAX, OFFSET_MAX, Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index_writer import IndexWriter, as_device_failed
from bcached.runtime.index.inode_keys import InodeKeys
from bcached.runtime.index.volume_reads import ReadsByVolume
from bcached.state.accounting.dirty_room import DirtyRoom
from bcached.state.accounting.index_health import IndexHealth
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.key_ranges import cut_to, spans_of, words_of
from bcached.state.index.tree import Missing
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.sectors.sector_runs import SectorRun
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights

DROPPED_KEYS = 256  # at once: an invalidation blocks the loop meanwhile


class Index:
    """Changes of the keys. Every method may be cancelled at any await: no change is left half done.

    One method per kind of change, and those that make changes durable: all that is written passes here.
    """

    def __init__(
        self, changes: IndexWriter, health: IndexHealth, sectors: SectorAllocator, shared: Shared
    ) -> None:
        self.changes = changes
        self.health = health
        self.nodes = changes.nodes
        self.write_back = changes.write_back
        self.inode_keys = InodeKeys(changes.nodes, sectors.members, shared)
        self._tree = changes.nodes.tree
        self._journal = changes.journal
        self._sectors = sectors
        self._shared = shared
        self._trace = shared.trace
        self._dirty_room = DirtyRoom(sectors.members)
        block_sectors = sectors.members[0].geometry.block_sectors
        # The longest deletion: a key's most sectors, in whole blocks.
        self._deletion_sectors = KEY_SECTORS_MAX // block_sectors * block_sectors
        # An existing key may take two deletions.
        self._dropped_at_once = min(DROPPED_KEYS, self._journal.commit_words // (2 * HEAD_WORDS))
        self._deletion_words = self._dropped_at_once * 2 * HEAD_WORDS
        self.reads = ReadsByVolume()  # of the look-ups
        self.committed_sectors = [0] * len(sectors.members)  # by clients, on each member
        changes.live.on_stale_dirty = health.stale_dirty_removed

    @property
    def volumes(self) -> Container[int]:
        """The inodes of the existing volumes."""
        return self._sectors.inodes

    # Committing

    def try_commit(self, holder: Holder, keys: Sequence[Key]) -> int | None:
        """Accept keys now; returns the seq of their entry, or None if that has to wait."""
        batch = KeyBatch(keys)
        self.check_batch(holder, batch)
        if not self.changes.is_ready_for(batch) or not self.changes.may_grow():
            self._sectors.check_commit(holder, keys)
            return None
        return self.accept(holder, keys, batch=batch)

    async def commit(self, holder: Holder, keys: Sequence[Key], timeout_s: float) -> int:
        """Accept keys, all in one entry; returns its seq. NoFreeBuckets if the index cannot grow in time."""
        clock = self._shared.clock
        deadline = clock() + timeout_s
        batch = KeyBatch(keys)
        self.check_batch(holder, batch)
        self._sectors.check_commit(holder, keys)
        while True:
            await self.changes.make_ready_for(batch, deadline - clock())
            self.check_batch(holder, batch)
            if self.changes.may_grow():
                return self.accept(holder, keys, batch=batch)
            self._sectors.check_commit(holder, keys)
            await self.changes.wait_to_grow(deadline - clock())

    def check_batch(self, holder: Holder, batch: KeyBatch) -> None:
        """Raise unless the holder could commit these keys, were they reserved."""
        self._shared.stop.check_changeable()
        if len(batch.words) > self._journal.commit_words:
            raise LimitExceeded("commit_words", len(batch.words))
        keys, sectors, options = batch.keys, self._sectors, self._shared.options
        if holder.rights.foreign:
            holder.rights.check_changes(keys, sectors.inodes)
        if batch.is_dirty and options.dirty_percent < 100 and not holder.rights.is_admin:
            self._dirty_room.check(keys, options.dirty_percent)
        inodes = batch.inodes
        is_usual = sectors.inodes.keys() >= inodes and sectors.flash_sectors.keys().isdisjoint(inodes)
        if not is_usual or batch.end_bits >= OFFSET_MAX or (batch.is_dirty and not options.synchronous):
            for key in keys:
                self._check_key(key)

    def _check_key(self, key: Key) -> None:
        """Raise if the volume, the end or the dirty flag of a key is not possible."""
        sectors = self._sectors
        if key.inode not in sectors.inodes:
            raise NoSuchVolume(key.inode)
        if key.offset + key.sectors > OFFSET_MAX:  # a piece of it after a cut could not be encoded
            raise InvalidParameter("keys", f"expected an end of at most {OFFSET_MAX}, found {key}")
        if key.inode in sectors.flash_sectors:
            self._check_flash_only(key)
        if key.dirty and not self._shared.options.synchronous:
            raise InvalidParameter("keys", "the set is not synchronous: expected clean keys, found dirty")

    def _check_flash_only(self, key: Key) -> None:
        """Kernel: such a volume is a disk of its size, all of it data that exists nowhere else."""
        size = self._sectors.flash_sectors[key.inode]
        if not key.dirty:
            raise InvalidParameter(
                "keys", f"volume {key.inode} is flash-only: expected dirty keys, found clean"
            )
        if key.end > size:
            raise InvalidParameter(
                "keys", f"volume {key.inode} ends at sector {size}, found a key up to {key.end}"
            )

    def accept(
        self,
        holder: Holder,
        keys: Sequence[Key],
        deletions: Sequence[Key] = (),
        batch: KeyBatch | None = None,
    ) -> int:
        """Commit keys, and deletions before them, without an await: no other task sees only a part of it.

        Returns their seq. All must be ready for them; batch is both, if the caller has packed them.
        """
        if self._trace.listeners:
            for key in keys:
                self._trace_insert(key)
        runs = self._sectors.runs_of(keys)
        seq = self._accept(holder, keys, runs, batch or KeyBatch([*deletions, *keys]))
        for run in runs:
            self.committed_sectors[run.device] += run.end - run.start
        return seq

    def _trace_insert(self, key: Key) -> None:
        self._trace.emit(
            "bcache_cache_insert", inode=key.inode, offset=key.offset, sectors=key.sectors, dirty=key.dirty
        )

    def _accept(self, holder: Holder, keys: Sequence[Key], runs: Sequence[SectorRun], batch: KeyBatch) -> int:
        ended = self._sectors.end_reservations(holder, keys, runs)  # raises before anything has changed
        seq = self.changes.put(batch, keys, runs)
        self._sectors.drop_pins(ended)  # not before: a bucket emptied of pins and data is retired
        self.changes.settle()
        return seq

    # Cleaning

    async def mark_clean(
        self, keys: Sequence[Key], timeout_s: float, rights: VolumeRights = ALL_RIGHTS
    ) -> tuple[list[bool], int]:
        """Make dirty keys clean whose pointers are still the same.

        Returns for each key whether all of it is clean now, and the seq of the entry.
        """
        spans, deadline = spans_of(keys), self._shared.clock() + timeout_s
        words = 0
        while True:
            rights.check_changes(keys, self._sectors.inodes)
            await self.changes.make_ready(spans, words, deadline - self._shared.clock())
            # Again: a volume may have been deleted, and its keys are orphans now.
            rights.check_changes(keys, self._sectors.inodes)
            pieces, cleaned = self._cleanable(keys)
            if not pieces:
                return cleaned, self._journal.accepted_seq
            needed = words_of(pieces)
            if needed > self._journal.commit_words:
                raise LimitExceeded("commit_words", needed)
            if needed > words:
                words = needed
            elif self.changes.may_grow() or self._may_take(pieces):
                return cleaned, self.changes.change(pieces)
            else:
                await self.changes.wait_to_grow(deadline - self._shared.clock())

    def _may_take(self, pieces: Sequence[Key]) -> bool:
        """Whether clean pieces of dirty keys fit without another node; the rests around them are keys, too.

        So a set that is full of dirty data can still be cleaned, unless in ever smaller pieces.
        """
        words = 0
        for piece in pieces:
            leaf = self._tree.find(piece.inode, piece.offset)
            assert not isinstance(leaf, Missing)
            for key in leaf.live.lookup(piece.inode, max(piece.offset - 1, 0), piece.end + 1):
                rests = (key.offset < piece.offset < key.end) + (key.offset < piece.end < key.end)
                words += rests * (HEAD_WORDS + len(key.pointers))
        return all(self._tree.fits(*span, words) for span in spans_of(pieces))

    def _cleanable(self, keys: Sequence[Key]) -> tuple[list[Key], list[bool]]:
        """Returns the pieces that can be made clean, as clean keys; and for each key whether that is all."""
        pieces: list[Key] = []
        cleaned = []
        for key in keys:
            whole = key.offset
            if key.inode not in self._sectors.flash_sectors:
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
        """Remove the stale copies from clean keys that are unchanged in the index, so that gens can rise.

        NoFreeBuckets if there is no space for that in time.
        """
        await self.changes.make_ready(spans_of(keys), words_of(keys), timeout_s)
        found = [
            key for key in keys if not key.dirty and self._loaded(key.inode, key.offset, key.end) == [key]
        ]
        good = [key for key in self._sectors.validity.current(found, touch=False) if key not in found]
        if good:
            self.changes.change(good)

    # Invalidating

    async def invalidate(
        self,
        inode: int,
        offset: int,
        sectors: int,
        timeout_s: float,
        rights: VolumeRights = ALL_RIGHTS,
    ) -> tuple[int, int]:
        """Drop the keys of a range, dirty or not.

        Returns how many sectors were live, and the seq of the last entry.
        """
        volume = self._sectors.inodes.get(inode)
        if volume is None:
            raise NoSuchVolume(inode)
        if inode in rights.foreign:
            rights.refuse_change(inode)
        dropped, seq = 0, self._journal.accepted_seq
        clock = self._shared.clock
        deadline = clock() + timeout_s
        start, end = offset, offset + sectors
        while start < end:
            await self.changes.make_ready(
                [(inode, start, start + 1)], self._deletion_words, deadline - clock()
            )
            if self._sectors.inodes.get(inode) != volume:  # deleted, or another one has its inode
                raise NoSuchVolume(inode)
            if inode in rights.foreign:  # it has another owner
                rights.refuse_change(inode)
            if self._divides(inode, start, end) and not self.changes.may_grow():
                await self.changes.wait_to_grow(deadline - clock())
                continue
            deletions, start = self._deletions(inode, start, end)
            if deletions:
                dropped += self._live_sectors(inode, deletions)
                seq = self.changes.change(deletions)
            await asyncio.sleep(0)
        return dropped, seq

    async def drop_volume(self, inode: int, timeout_s: float) -> None:
        """Drop all keys of a volume, durably; no request adds any at this point.

        NoFreeBuckets if there is no progress for timeout_s; some keys are dropped then.
        """
        start = 0
        while start < bkey.END_MAX:
            await self.changes.make_ready([(inode, start, start + 1)], self._deletion_words, timeout_s)
            deletions, start = self._deletions(inode, start, bkey.END_MAX)
            if deletions:
                self.changes.change(deletions)
            await asyncio.sleep(0)
        await self.flush()

    def _divides(self, inode: int, start: int, end: int) -> bool:
        """Whether a range is within one key, which would become two.

        No other deletion makes a leaf fuller. So a full set, with no bucket left for its index to grow, can
        still be emptied.
        """
        leaf = self._tree.find(inode, start)
        assert not isinstance(leaf, Missing)
        found = leaf.live.lookup(inode, max(start - 1, 0), end + 1, 1)
        return bool(found) and found[0].offset < start and found[0].end > end

    def _deletions(self, inode: int, start: int, end: int) -> tuple[list[Key], int]:
        """Returns keys that delete what the leaf at start holds before end, and where the rest begins."""
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
        count = 0
        for deletion in deletions:
            found = self._loaded(inode, deletion.offset, deletion.end)
            count += sum(key.sectors for key in self._sectors.validity.current(found, touch=False))
        return count

    # Durability

    async def durable(self, seq: int) -> None:
        """Return when an entry is durable."""
        with as_device_failed(self._shared):
            await self._journal.durable(seq)

    def written(self, seq: int) -> "asyncio.Future[None]":
        """Returns the journal's future of an entry that is not durable yet: Journal.written, DeviceFailed."""
        with as_device_failed(self._shared):
            return self._journal.written(seq)

    def check_written(self, written: "asyncio.Future[None]") -> None:
        """Raise DeviceFailed if such a future, which is done, has failed."""
        with as_device_failed(self._shared):
            written.result()

    async def flush(self) -> int:
        """Return when all that was accepted before is durable; returns its seq."""
        seq = self._journal.accepted_seq
        await self.durable(seq)
        return seq

    async def write_out(self) -> None:
        """Write out all leaves, and an entry that needs none before it, so that nothing is replayed."""
        try:
            await self.write_back.write_all()
        except RequestError:
            if self._shared.stop.refusal is None:
                raise  # otherwise there were no buckets for it, and the journal has the rest
        await self._journal.commit()

    # For moving garbage collection

    def is_ready_for(self, old: Key, new: Key) -> bool:
        """Whether `replace` could run now."""
        return self.changes.is_ready(spans_of([old]), words_of([new])) and self._may_put(new)

    async def make_ready_for(self, old: Key, new: Key, timeout_s: float) -> None:
        """Wait for what `replace` lacks; that holds until the caller's next await.

        It must not be checked again: the leaf that was loaded for it may be more than the memory limit, and
        would be evicted for ever. NoFreeBuckets after timeout_s.
        """
        await self.changes.make_ready(spans_of([old]), words_of([new]), timeout_s)
        while not self._may_put(new):
            await self.changes.wait_to_grow(timeout_s)
            await self.changes.make_ready(spans_of([old]), words_of([new]), timeout_s)

    def _may_put(self, new: Key) -> bool:
        """Whether a copy's key fits: the index may grow, or the key needs no space, as it covers the old one.

        So data can still be moved when the index cannot grow, which frees buckets for it to grow.
        """
        return self.changes.may_grow() or self._may_take([new])

    def replace(self, holder: Holder, old: Key, new: Key) -> bool:
        """Replace a key by its reserved copy; returns False if the key has changed since it was copied."""
        if self._loaded(old.inode, old.offset, old.end) != [old]:
            return False
        self._accept(holder, [new], self._sectors.runs_of([new]), KeyBatch([new]))
        return True

    def _loaded(self, inode: int, start: int, end: int) -> list[Key]:
        found = self._tree.lookup(inode, start, end)
        assert not isinstance(found, Missing), "the caller has not loaded the range"
        return found
