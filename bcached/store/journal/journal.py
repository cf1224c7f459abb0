# SPDX-License-Identifier: GPL-2.0-only
"""The journal: one durable entry at a time, the same on every member.

An entry is sealed when its flush is issued: whatever the flush does not cover goes to the next entry.
Callers that ask for an entry while one is being written share the next. Every entry names all metadata, so
the newest alone finds the set, and holds all keys accepted before its seal.

    append ──> OpenEntry ──sealed──> EntryWriter ──durable──> Rings, until the leaves are written
                   └─────── NeededKeys, in memory ───────┘
                 JournalSpace: may more be accepted, and must leaves be written first?
"""

import asyncio
from collections.abc import Callable, Sequence

from bcached.errors import DeviceError
from bcached.format.bkey import WORD_BYTES, pack_keys
from bcached.format.jset import JournalEntry
from bcached.keys import Key
from bcached.state.statistics import Histogram
from bcached.store.journal.entry_writer import EntryWriter
from bcached.store.journal.limits import JournalLimits
from bcached.store.journal.locations import Locations
from bcached.store.journal.open_entry import OpenEntry
from bcached.store.journal.relog import NeededKeys, Record
from bcached.store.journal.ring import JournalRing, Remaining
from bcached.store.journal.rings import Rings
from bcached.store.journal.space import JournalSpace
from bcached.store.journal.waiters import AwaitedEntries
from bcached.store.member import Member
from bcached.tracepoints import OFF
from bcached.units import SECTOR_BYTES


class Journal:
    """Accepts keys, and writes entries when it is asked to.

    clock returns seconds, for the durations. entries are those found at the opening that are still needed.
    """

    def __init__(
        self,
        members: Sequence[Member],
        rings: Sequence[JournalRing],
        locations: Locations,
        *,
        seq: int,
        durable_last_seq: int,
        clock: Callable[[], float],
        entries: Sequence[JournalEntry] = (),
    ) -> None:
        self.seq = seq  # of the newest entry that is sealed
        self.durable_seq = seq
        self.locations = locations
        self.on_durable: list[Callable[[int], None]] = []  # called with each new durable_seq
        self.on_pressure: list[Callable[[], None]] = []  # called when a ring runs short: ask `pressure`
        self.trace = OFF
        self.on_wanted: Callable[[], None] = lambda: None  # called when `is_wanted` may have become true
        needed = NeededKeys.of(entries, len(members))
        limits = JournalLimits(members[0].buckets.geometry, [len(ring.buckets) for ring in rings])
        self.open_entry = OpenEntry(limits.entry_words, clock)
        self.space = JournalSpace(limits, Rings(rings, durable_last_seq), needed, self.open_entry)
        # No needed entry holds a key that was accepted before this one was sealed.
        self.oldest_kept_seq = self._oldest_kept()
        self._writer = EntryWriter(members, self.space.rings, clock)
        self._lock = asyncio.Lock()  # held for one entry, from its seal until it is durable
        self._wanted_seq = 0  # the highest that any caller waited for
        self._awaited = AwaitedEntries()
        self._failure: DeviceError | None = None  # why it was aborted

    def __repr__(self) -> str:
        return (
            f"<Journal entry {self.seq}, durable {self.durable_seq}, needed from {self.oldest_kept_seq}, "
            f"open with {self.open_entry.key_count} keys{', aborted' if self._failure else ''}; {self.space}>"
        )

    # Keys

    @property
    def commit_words(self) -> int:
        """The most words of keys that can be accepted together."""
        return self.space.limits.entry_words

    @property
    def accepted_seq(self) -> int:
        """The seq of the entry that has, or will have, the key accepted last."""
        return self.seq + 1 if self.open_entry.key_count else self.seq

    @property
    def durations(self) -> Histogram:
        """How long the writes of entries took."""
        return self._writer.durations

    def has_space(self, words: int) -> bool:
        """Whether keys of so many words may be accepted now."""
        return self.space.has(words)

    def append(self, keys: Sequence[Key]) -> int:
        """Accept keys, after `has_space`. Returns the seq of the entry that will hold them all."""
        return self.append_packed(pack_keys(tuple(keys)), len(keys))

    def append_packed(self, packed: bytes, key_count: int) -> int:
        """Accept keys that are packed already, as `append`."""
        if self.open_entry.append(packed, len(packed) // WORD_BYTES, key_count):
            self.on_wanted()
        return self.seq + 1

    async def wait_for_space(self, words: int) -> None:
        """Return when there is space, which lasts until the caller's next await."""
        assert words <= self.commit_words
        while not self.space.has(words):
            self._refuse_if_aborted()
            self.on_wanted()
            self._report_pressure()
            if self.trace.listeners:
                is_full = self.space.fits_open_entry(words)
                self.trace.emit("bcache_journal_full" if is_full else "bcache_journal_entry_full")
            await self.space.waiters.wait(words)

    async def durable(self, seq: int) -> None:
        """Return when an entry is durable; the journal writer task writes it."""
        if self.durable_seq < seq:
            await asyncio.shield(self.written(seq))

    def written(self, seq: int) -> "asyncio.Future[None]":
        """Returns the future of an entry that is not durable yet; it is shared, so never to be cancelled.

        It fails with the DeviceError for which the journal was aborted; if it was already, this raises it.
        """
        assert self.durable_seq < seq <= self.accepted_seq
        self._refuse_if_aborted()
        self._wanted_seq = max(self._wanted_seq, seq)
        self.on_wanted()
        return self._awaited.future(seq)

    # Entries

    async def commit(self) -> int:
        """Make durable all writes to any member before this call, accepted keys, and locations of metadata.

        Returns the seq of an entry that includes all that. The caller must not be cancelled.
        """
        sealed = self.seq
        async with self._lock:
            self._refuse_if_aborted()
            if self.seq == sealed:
                await self._write_whole()
            return self.seq

    async def set_root(self, key: Key, level: int) -> None:
        """Return when a durable entry names this root."""
        self.locations.root, self.locations.level = key, level
        await self.commit()

    @property
    def is_wanted(self) -> bool:
        """Whether an entry should be written now."""
        if self._failure is not None:
            return False
        if self._wanted_seq > self.seq or self.space.is_release_wanted:
            return True
        return bool(self.open_entry.key_count) and not self.space.fits_open_entry(self.space.waiters.most)

    def abort(self, cause: BaseException) -> None:
        """Write no entry any more; all waiters get the first cause."""
        if self._failure is None:
            what = f"the journal was aborted: entry {self.durable_seq + 1} was not completely written"
            aborted = DeviceError(self._writer.members[0].path, what)
            self._failure = cause if isinstance(cause, DeviceError) else aborted
        self._awaited.fail(self._failure)
        self.space.waiters.wake_all()

    # Space

    def pressure(self) -> int | None:
        """Returns the seq through which leaves should be written to free a bucket; None if none is short.

        Ask again when they are: what is released counts once an entry says so, and that is requested here.
        """
        through = self.space.pressure(self.seq + 1)
        if self.space.is_release_wanted:
            self.on_wanted()
        return through

    def free_buckets(self, member: Member) -> int:
        """Returns how many of a member's journal buckets could be begun now."""
        rings = self.space.rings
        return rings.each[member.device].free_buckets(rings.durable_last_seq)

    def _report_pressure(self) -> None:
        for report in self.on_pressure:
            report()

    # Writing

    async def _write_whole(self) -> None:
        """Write the next entry; if that fails, abort the journal: a reader stops at an entry that is missing.

        Nor is it known which members have it. So its waiters must not take it for written, whether a device
        failed or the writing task was cancelled.
        """
        try:
            await self._write_next()
        except BaseException as error:
            self.abort(error)
            raise

    def _refuse_if_aborted(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def _write_next(self) -> None:
        """Write all that was accepted, and relog needed keys if a ring would else run out."""
        needed, limits, seq = self.space.needed, self.space.limits, self.seq + 1
        oldest = self.space.release()
        packed = self._seal_keys(seq)
        last_seq = seq if needed.oldest is None else needed.oldest.seq
        assert oldest is None or (needed.oldest is not None and needed.oldest.accepted_seq <= oldest)
        remaining = self._remaining_after(len(packed) // WORD_BYTES, last_seq)
        relog_buckets = limits.relog_buckets(needed.words, needed.merged_words_max())
        # 1. Enough buckets stay free for a relog: the accepted keys alone.
        if all(left is not None and left.buckets >= relog_buckets for left in remaining):
            await self._write_entry(packed, last_seq)
        # 2. All needed keys fit in one entry: that entry, and no older one is needed.
        elif needed.words <= limits.entry_words and None not in self._remaining_after(needed.words, seq):
            await self._relog(seq)
        # 3. They fit in several: the accepted keys, then the needed ones in parts.
        elif needed.words > limits.entry_words and (parts := self._parts()):
            await self._relog_in_parts(packed, last_seq, parts)
        # 4. A ring as the kernel may leave it: the accepted keys alone, as long as a block is left. The last
        #    block is kept for an entry that frees buckets.
        else:
            self._writer.refuse_the_last_block(remaining, seq)
            await self._write_entry(packed, last_seq)

    def _seal_keys(self, seq: int) -> bytes:
        """Returns the accepted keys, which the entry needs from now on; later ones go to the next entry."""
        key_count = self.open_entry.key_count
        packed = self.open_entry.close()
        if packed:
            self.space.needed.add(Record(seq, seq, packed, key_count))
        return packed

    async def _relog(self, seq: int) -> None:
        """Relog all needed keys into one entry, so that no older one is needed."""
        needed = self.space.needed
        packed, accepted_seq = needed.packed(), self._oldest_kept()
        needed.replace([Record(seq, accepted_seq, packed, needed.cuts)] if packed else [])
        await self._write_entry(packed, seq)

    def _parts(self) -> list[bytes]:
        """Returns the needed keys merged, newest wins, a part an entry; none if there is no space."""
        limits = self.space.limits
        parts = self.space.needed.merged(limits.entry_words)
        return parts if limits.buckets_of(len(parts) + 1) <= self.space.rings.free else []

    async def _relog_in_parts(self, packed: bytes, last_seq: int, parts: list[bytes]) -> None:
        """Write the accepted keys, then relog all needed ones; the entry with the last part frees buckets.

        No key is accepted meanwhile: a part behind it would overwrite it with older ones.
        """
        self.space.is_relogging = True
        accepted_seq = self._oldest_kept()
        if packed:
            await self._write_entry(packed, last_seq)
        first = self.seq + 1
        for part in parts[:-1]:
            await self._write_entry(part, last_seq)
        self.space.needed.replace(
            [Record(first + number, accepted_seq, part, 0) for number, part in enumerate(parts)]
        )
        self.space.is_relogging = False
        await self._write_entry(parts[-1], first)

    async def _write_entry(self, packed: bytes, last_seq: int) -> None:
        """Seal the next entry, before the first await, and write it."""
        self.seq = seq = self.seq + 1
        self.space.is_release_wanted = False
        raw = self._writer.pack(self.locations.entry(seq, last_seq), packed)
        offsets = self._writer.advance(len(raw), seq)
        oldest_kept_seq = self._oldest_kept()
        self.space.count_free()
        self.space.waiters.wake_all()  # a new entry is open
        await self._writer.write(raw, offsets)
        if self.trace.listeners:
            self._trace_write(len(raw), len(packed) // WORD_BYTES, offsets)
        self.durable_seq, self.space.rings.durable_last_seq = seq, last_seq
        self.oldest_kept_seq = oldest_kept_seq
        self.space.count_free()
        self._report_durable()

    def _trace_write(self, size_bytes: int, words: int, offsets: Sequence[int]) -> None:
        for member, offset in zip(self._writer.members, offsets, strict=True):
            sector, sectors = offset // SECTOR_BYTES, size_bytes // SECTOR_BYTES
            self.trace.emit(
                "bcache_journal_write", device=member.device, sector=sector, sectors=sectors, words=words
            )

    def _report_durable(self) -> None:
        self._awaited.complete(self.durable_seq)
        self.space.waiters.wake_all()
        for report in self.on_durable:
            report(self.durable_seq)
        if self.on_pressure and self.pressure() is not None:
            self._report_pressure()

    def _oldest_kept(self) -> int:
        oldest = self.space.needed.oldest
        return self.seq if oldest is None else oldest.accepted_seq

    def _remaining_after(self, words: int, last_seq: int) -> list[Remaining | None]:
        """Returns what each member's ring has left behind an entry with so many words of keys."""
        return self.space.rings.remaining_after(self.space.limits.entry_bytes(words), last_seq)
