"""The journal: one durable entry at a time, the same on every member.

An entry is sealed when its flush is issued: whatever the flush does not cover goes to the next entry.
Callers that ask for an entry while one is being written share the next. Every entry names all metadata, so
the newest alone finds the set, and holds all keys accepted before its seal. How much space there is for keys:
see space.py.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from bcached.device.run_all import run_all
from bcached.errors import DeviceError, SetRefused
from bcached.format.bkey import WORD_BYTES, pack_keys
from bcached.format.jset import VERSION, VERSION_OLD_UUIDS, JournalEntry
from bcached.format.sizes import MEMBERS_MAX
from bcached.keys import Key
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.journal.relog import NeededKeys, Record
from bcached.store.journal.ring import Room
from bcached.store.journal.space import JournalRoom
from bcached.store.journal.waiters import Waiters
from bcached.store.member import Member

GRANTED_WORDS = 1024  # asked for at once, so that not every key has to ask


class Journal:
    """Accepts keys and writes entries; holds the locations of all metadata as the next entry will name them.

    clock returns seconds, for the durations. entries are those found at the opening that are still needed.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        seq: int,
        durable_last_seq: int,
        uuid_bucket: Key,
        root: Key,
        clock: Callable[[], float],
        level: int = 0,
        entries: Sequence[JournalEntry] = (),
    ) -> None:
        self.seq = seq  # of the newest entry that is sealed
        self.durable_seq = seq
        self.durable_last_seq = durable_last_seq
        self.uuid_bucket = uuid_bucket
        # A table with entries of 64 bytes: journal entries must have the old version as long as they name it.
        self._old_table = uuid_bucket if entries and entries[-1].version == VERSION_OLD_UUIDS else None
        self.root = root
        self.level = level
        # Heads of the prio chains; set once a chain is completely written, so no entry names a partial one.
        self.prio_heads = [0] * MEMBERS_MAX
        self.durations = Histogram(WRITE_BOUNDS_S)
        # Returns the oldest entry with keys that no written leaf holds. To be set before the first entry
        # after an opening that found keys: that entry would release them.
        self.oldest_needed: Callable[[], int | None] = lambda: None
        self.on_durable: list[Callable[[int], None]] = []  # called with each new durable_seq
        self.on_pressure: list[Callable[[], None]] = []  # called when the ring runs short: ask `pressure`
        self.on_wanted: Callable[[], None] = lambda: None  # called when `is_wanted` may have become true
        self.opened_at: float | None = None  # when the open entry got its first key
        self._members = members
        # If members' journals end at different entries, the first entry goes to them one after the other, the
        # one furthest behind first: else, after repeated power cuts, a member could lack any number.
        reached = [max(member.ring.newest_seqs, default=0) for member in members]
        behind_first = sorted(range(len(members)), key=reached.__getitem__)
        self._one_by_one = behind_first if len(set(reached)) > 1 else []
        self._sealed = 0
        self._broke_off_at = 0
        self._cause: DeviceError | None = None
        self._turn = asyncio.Lock()
        self._clock = clock
        rings = [len(member.ring.buckets) for member in members]
        self._room = JournalRoom(members[0].cache.geometry, rings)
        self._open: list[bytes] = []
        self._open_words = 0
        self._open_keys = 0
        self._needed = NeededKeys(len(members))
        for entry in entries:
            if entry.keys:
                packed = pack_keys(entry.keys)
                self._needed.add(Record(entry.seq, entry.seq, packed, len(entry.keys)))
        # No needed entry holds a key that was accepted before this one was sealed.
        self.oldest_kept_seq = self._oldest_kept()
        self._carrying = False
        self._granted = 0  # words for which space in the ring is certain
        self._release_wanted = False
        self._wanted_seq = 0  # the highest that any caller waited for
        self._durable_waiters = Waiters()
        self._room_waiters = Waiters()
        self._count_free()

    # Keys

    @property
    def commit_words(self) -> int:
        """The most words of keys that can be accepted together."""
        return self._room.entry_words

    @property
    def accepted_seq(self) -> int:
        """The seq of the entry that has, or will have, the key accepted last."""
        return self.seq + 1 if self._open else self.seq

    def has_room(self, words: int) -> bool:
        """Whether keys of so many words may be accepted now."""
        if self._carrying or self._open_words + words > self._room.entry_words:
            return False
        if words <= self._granted:
            return True
        if self._ring_takes(words + GRANTED_WORDS, self._free):
            self._granted = words + GRANTED_WORDS
            return True
        return self._ring_takes(words, self._free)

    def append(self, keys: Sequence[Key]) -> int:
        """Accept keys, after `has_room`. Returns the seq of the entry that will hold them all."""
        packed = pack_keys(tuple(keys))
        words = len(packed) // WORD_BYTES
        assert words
        assert self._open_words + words <= self._room.entry_words, "has_room was not asked"
        if not self._open:
            self.opened_at = self._clock()
            self.on_wanted()
        self._open.append(packed)
        self._open_words += words
        self._granted -= words
        self._open_keys += len(keys)
        return self.seq + 1

    async def wait_for_room(self, words: int) -> None:
        """Return when there is space, which lasts until the caller's next await."""
        assert words <= self.commit_words
        while not self.has_room(words):
            self._refuse_if_broken_off()
            self.on_wanted()
            self._tell_pressure()
            await self._room_waiters.wait(words)

    async def durable(self, seq: int) -> None:
        """Return when an entry is durable; the journal writer task writes it."""
        assert seq <= self.accepted_seq
        while self.durable_seq < seq:
            self._refuse_if_broken_off()
            self._wanted_seq = max(self._wanted_seq, seq)
            self.on_wanted()
            await self._durable_waiters.wait(seq)

    # Entries

    async def commit(self) -> int:
        """Make durable all writes to any member before this call, accepted keys, and locations of metadata.

        Returns the seq of an entry that includes all that. The caller must not be cancelled.
        """
        sealed = self._sealed
        async with self._turn:
            self._refuse_if_broken_off()
            if self._sealed == sealed:
                await self._write_whole()
            return self.seq

    async def set_root(self, key: Key, level: int) -> None:
        """Return when a durable entry names this root."""
        self.root, self.level = key, level
        await self.commit()

    @property
    def is_wanted(self) -> bool:
        """Whether an entry should be written now."""
        if self._broke_off_at:
            return False
        if self._wanted_seq > self.seq or self._release_wanted:
            return True
        return bool(self._open) and not self._fits_open_entry(self._room_waiters.most)

    # Room

    def pressure(self) -> int | None:
        """Returns the seq through which leaves should be written to free a bucket; None if none is short.

        Ask again when they are: what is released counts once an entry says so, and that is requested here.
        """
        self._release()
        if not self._is_short(self._free):
            return None
        oldest = self._needed.oldest
        last_seq = self.seq + 1 if oldest is None else oldest.seq
        free = min(member.ring.free_buckets(last_seq) for member in self._members)
        if free > self._free and not self._release_wanted:
            self._release_wanted = True
            self.on_wanted()
        if not self._is_short(free):
            return None
        if oldest is None:
            return self.accepted_seq if self._open else None
        return max(member.ring.newest_with(oldest.seq) for member in self._members)

    def free_buckets(self, member: Member) -> int:
        """Returns how many of a member's journal buckets could be begun now."""
        return member.ring.free_buckets(self.durable_last_seq)

    def _fits_open_entry(self, words: int) -> bool:
        return not self._carrying and self._open_words + words <= self.commit_words

    def _ring_takes(self, words: int, free: int) -> bool:
        """Whether so many words more may be needed while so many buckets are free: see space.py."""
        needed = self._needed
        if needed.words + self._open_words + words > self.commit_words:
            self._release()
        # The shortest key is of two words, a deletion.
        total, laid_over = self._weight(words, words // 2)
        if total <= self.commit_words:
            return True
        buckets = self._room.carriage_buckets(total, laid_over)
        return free > buckets and self._room.may_need(total, laid_over)

    def _weight(self, words: int = 0, keys: int = 0) -> tuple[int, int]:
        """Returns the words needed if so many are added, and the most that a merge of them could take."""
        words, keys = words + self._open_words, keys + self._open_keys
        return self._needed.words + words, self._needed.words_laid_over(words, keys)

    def _is_short(self, free: int) -> bool:
        """Whether leaves should be written out if so many buckets are free."""
        waiting = self._room_waiters.most
        if waiting and not self._ring_takes(waiting, free):
            return True
        words, laid_over = self._weight()
        return 2 * words > self.commit_words and (
            2 * free < self._room.buckets - 1 or not self._room.may_need(2 * words, 2 * laid_over)
        )

    def _release(self) -> int | None:
        """Forget what is in written leaves by now. Returns the oldest entry that is needed."""
        words, oldest = self._needed.words, self.oldest_needed()
        self._needed.release(oldest)
        if self._needed.words < words:
            self._room_waiters.wake_all()
        return oldest

    def _count_free(self) -> None:
        """Count the free buckets of the member with the fewest."""
        self._free = min(self.free_buckets(member) for member in self._members)
        self._granted = 0

    def _tell_pressure(self) -> None:
        for tell in self.on_pressure:
            tell()

    # Writing

    async def _write_whole(self) -> None:
        """Write the next entry; if that fails, abort the journal: a reader stops at an entry that is missing.

        Nor is it known which members have it. So its waiters must not take it for written, whether a device
        failed or the writing task was cancelled.
        """
        try:
            await self._write_next()
        except BaseException as error:
            self.break_off(error)
            raise

    def break_off(self, cause: BaseException) -> None:
        """Abort: no entry is written any more, and all waiters get the first error."""
        if not self._broke_off_at:
            self._broke_off_at = self.durable_seq + 1
            self._cause = cause if isinstance(cause, DeviceError) else None
        self._durable_waiters.wake_all()
        self._room_waiters.wake_all()

    def _refuse_if_broken_off(self) -> None:
        if self._cause is not None:
            raise self._cause.with_traceback(None)
        if self._broke_off_at:
            raise DeviceError(
                self._members[0].path,
                f"the journal was aborted: entry {self._broke_off_at} was not completely written",
            )

    async def _write_next(self) -> None:
        """Write all that was accepted, and relog needed keys if the ring would else run out.

        1. Enough buckets stay free: the accepted keys alone.
        2. All needed keys fit in one entry: that entry.
        3. They fit in several: the accepted keys, then the needed ones in parts.
        4. None of these: the accepted keys alone, as long as a block is left.
        """
        needed, seq = self._needed, self.seq + 1
        oldest = self._release()
        packed = self._close_entry(seq)
        last_seq = seq if needed.oldest is None else needed.oldest.seq
        assert oldest is None or (needed.oldest is not None and needed.oldest.accepted_seq <= oldest)
        rooms = self._rooms_after(len(packed), last_seq)
        carriage = self._room.carriage_buckets(needed.words, needed.words_laid_over())
        if all(room is not None and room.buckets >= carriage for room in rooms):
            await self._write_entry(packed, last_seq)
        elif needed.words <= self.commit_words and None not in self._rooms_after(8 * needed.words, seq):
            await self._carry(seq)
        elif needed.words > self.commit_words and (parts := self._parts()):
            await self._carry_in_parts(packed, last_seq, parts)
        else:
            # A ring as the kernel may leave it. Its last block is kept for an entry that frees buckets.
            self._refuse_the_last_block(rooms, seq)
            await self._write_entry(packed, last_seq)

    def _close_entry(self, seq: int) -> bytes:
        """Returns the accepted keys; later ones go to the next entry."""
        packed = b"".join(self._open)
        if packed:
            self._needed.add(Record(seq, seq, packed, self._open_keys))
        self._open, self._open_words, self._open_keys, self.opened_at = [], 0, 0, None
        return packed

    async def _carry(self, seq: int) -> None:
        """Relog all needed keys into one entry, so that no older one is needed."""
        needed = self._needed
        packed, accepted_seq = needed.packed(), self._oldest_kept()
        needed.replace([Record(seq, accepted_seq, packed, needed.cuts)] if packed else [])
        await self._write_entry(packed, seq)

    def _parts(self) -> list[bytes]:
        """Returns the needed keys merged, newest wins, a part an entry; none if there is no space."""
        parts = self._needed.laid_over(self.commit_words)
        return parts if self._room.buckets_of(len(parts) + 1) <= self._free else []

    async def _carry_in_parts(self, packed: bytes, last_seq: int, parts: list[bytes]) -> None:
        """Write the accepted keys, then relog all needed ones; the entry with the last part frees buckets.

        No key is accepted meanwhile: a part behind it would overwrite it with older ones.
        """
        self._carrying = True
        accepted_seq = self._oldest_kept()
        if packed:
            await self._write_entry(packed, last_seq)
        first = self.seq + 1
        for part in parts[:-1]:
            await self._write_entry(part, last_seq)
        self._needed.replace(
            [Record(first + number, accepted_seq, part, 0) for number, part in enumerate(parts)]
        )
        self._carrying = False
        await self._write_entry(parts[-1], first)

    async def _write_entry(self, packed: bytes, last_seq: int) -> None:
        begun = self._clock()
        self._sealed += 1
        self.seq += 1
        self._release_wanted = False
        entry = JournalEntry(
            self.seq,
            last_seq,
            self.uuid_bucket,
            self.root,
            self.level,
            tuple(self.prio_heads),
            version=VERSION_OLD_UUIDS if self.uuid_bucket == self._old_table else VERSION,
        )
        superblock, block_bytes = self._members[0].superblock, self._members[0].cache.geometry.block_bytes
        raw = entry.pack(superblock.set_magic, block_bytes, packed)
        places = [self._place(member, raw, entry.seq) for member in self._members]
        oldest_kept_seq = self._oldest_kept()
        self._count_free()
        self._room_waiters.wake_all()  # a new entry is open
        await run_all(member.block_device.flush for member in self._members)
        writes = [
            partial(member.block_device.write, place, raw, durable=True)
            for member, place in zip(self._members, places, strict=True)
        ]
        for number in self._one_by_one:
            await writes[number]()
        if not self._one_by_one:
            await run_all(writes)
        self._one_by_one = []
        self.durable_seq, self.durable_last_seq = entry.seq, last_seq
        self.oldest_kept_seq = oldest_kept_seq
        self.durations.observe(self._clock() - begun)
        self._count_free()
        self._tell_durable()

    def _tell_durable(self) -> None:
        self._durable_waiters.wake(self.durable_seq)
        self._room_waiters.wake_all()
        for tell in self.on_durable:
            tell(self.durable_seq)
        if self.on_pressure and self.pressure() is not None:
            self._tell_pressure()

    def _oldest_kept(self) -> int:
        oldest = self._needed.oldest
        return self.seq if oldest is None else oldest.accepted_seq

    def _rooms_after(self, key_bytes: int, last_seq: int) -> list[Room | None]:
        """Returns what each member's ring has left behind an entry with so many bytes of keys."""
        size_bytes = self._room.entry_bytes(key_bytes // WORD_BYTES)
        return [
            member.ring.room_after(size_bytes, self.durable_last_seq, last_seq) for member in self._members
        ]

    def _refuse_the_last_block(self, rooms: Sequence[Room | None], seq: int) -> None:
        for member, room in zip(self._members, rooms, strict=True):
            if room is None or not any(room):
                raise self._full(member, seq)

    def _place(self, member: Member, raw: bytes, seq: int) -> int:
        place = member.ring.place(len(raw), seq, self.durable_last_seq)
        if place is None:
            raise self._full(member, seq)
        return place

    def _full(self, member: Member, seq: int) -> SetRefused:
        return SetRefused(f"{member.path}: no free journal bucket for entry {seq}")
