# SPDX-License-Identifier: MIT
"""All of a cache that ends with its connection: leased space, commits under way, what is known about gens."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import RLock

from bcached.client.attachment import Attachment
from bcached.client.cache.carving import Carver
from bcached.client.cache.commits import Commits, Pending
from bcached.client.cache.finding.known_object import KnownObject, Members
from bcached.client.cache.finding.placed_objects import PlacedObjects
from bcached.client.cache.finding.positions import Position, Positions
from bcached.client.cache.finding.read_reports import Hits
from bcached.client.cache.finding.reading import Reader, StaleRead
from bcached.client.cache.finding.recall import Recall
from bcached.client.cache.leasing import Leases
from bcached.client.cache.undivided import Undivided
from bcached.client.cache.values.expiry import now_us
from bcached.client.cache.values.names import RECORD_AT, SLOT_SECTORS, offset_of
from bcached.client.cache.values.new_object import NewObject
from bcached.client.cache.values.object_format import (
    CHECKED_AT,
    OBJECT_BYTES_MAX,
    PAGE_BYTES,
    Parts,
    Seal,
    StoredObject,
    encoded,
    value_at,
)
from bcached.client.cache.volume_by_label import READER, volume_of
from bcached.client.changes import mapped_changes
from bcached.client.data.parts_left import PartsLeft
from bcached.client.data.scattered_reads import LONG_BYTES
from bcached.client.gens import Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.socket_channel import SocketChannel
from bcached.errors import BcachedError, NoFreeBuckets, PermissionDenied
from bcached.keys import Key
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import MANY_MAX, Lookup

NEVER = -1  # no change counter has this value
TRIES = 16  # of a read whose buckets are reused faster than it is done: then it is a miss
# How long to wait for a bucket: before sectors of shared ones are requested, and where that is impossible.
LEASE_MS, LEASE_MS_ELSE = 1000, 30_000
WRITER = "allocator"  # the lowest role that may write


class CacheSession:
    """A connection, and the volume. Storing needs the cache's lock, looking up does not.

    Its many attributes are the parts that end together with the connection; each has methods of its own.
    """

    def __init__(
        self,
        path: str,
        volume: str | int,
        patience_s: float,
        lock: RLock,
        lose: Callable[["CacheSession"], None],
    ) -> None:
        """lose: takes the session when its connection has ended."""
        self._lose = lose
        self.at = Attachment(path, direct=False, whole_buckets=True, checks_requests=False)
        self.channel = SocketChannel(path, patience_s, stop_is_loss=True)
        try:
            self.at.begin(self.channel, self.channel.ask(verbs.describe()))
            files = self.channel.ask(verbs.map_gens(self.at))
            self.gens = self.at.map_gens(files)
            self.changes = mapped_changes(self.channel.ask(verbs.map_changes(self.at)))
            self.inode = volume if isinstance(volume, int) else volume_of(self.channel, self.at, volume)
        except BaseException:
            self.at.abandon()
            self.channel.close()
            raise
        devices = self.at.description.devices
        self._may_write = self.at.description.role != READER
        self.block_bytes = max(device.block_sectors for device in devices) * SECTOR_BYTES
        self.refused: list[int] = []  # offsets whose objects were not committed: an older one may be there
        self.reader = Reader(self.at, self.gens)
        self.positions = Positions()
        self.undivided = Undivided(self.channel)  # entered with the lock, for all that changes the session
        self.commits = Commits(self.channel, self.at, lock, self.undivided, self._refuse, self._remember)
        self._leases = Leases(self.channel, self.at)
        self._carver = Carver(devices[0].bucket_sectors)
        self._leased = self.gens.now()  # when the newest lease was taken: all of them are valid then
        at = self.at
        self._hits = Hits(devices[0].bucket_sectors, lambda touch: at.send_oneway(verbs.touch_message(touch)))
        self._hang_ups = self.channel.hang_ups
        self._members = Members(self.at.data, self.gens, devices)
        self.recall = Recall(
            self.positions,
            self.commits.newest,
            self.refused,
            self.changes.counters,
            self._hang_ups,
            self._hits,
        )
        self.placed = PlacedObjects(
            self.inode,
            self.changes,
            self.gens,
            self._members,
            self.positions,
            self.commits.newest,
            self.refused,
            self._hang_ups,
            self._hits,
        )
        whole_buckets = self.commits.keys_max - 1  # since the first may be in the middle of one
        self.object_bytes_max = min(OBJECT_BYTES_MAX, whole_buckets * devices[0].bucket_bytes)
        self._value_bytes_least = self.object_bytes_max - 2 * PAGE_BYTES  # may be stored with any name

    def close(self) -> None:
        """Report the last reads and disconnect: the daemon takes back what is reserved."""
        self._hits.report()
        if self.at.close():
            self.channel.close()
            self.at.settle()
            self.positions.clear()  # which keep data paths open, as the members do
            self._members.clear()
            self.commits.end()

    def settle(self) -> None:
        """The connection has ended, perhaps while no call is made."""
        self.at.settle()
        if not self.at.is_connected:
            self._lose(self)

    # Storing

    def encoded(self, one: NewObject) -> tuple[Parts, Seal]:
        """Returns an object's bytes. Raises ValueError if they are more than the set commits at once."""
        if len(one.value) > self._value_bytes_least:
            length = value_at(len(one.name), len(one.value)) + len(one.value)
            if length > self.object_bytes_max:
                raise ValueError(
                    f"an object of this set has at most {self.object_bytes_max} bytes, this one {length}: "
                    "store it in parts"
                )
        return encoded(one.name, one.codec, one.value, now_us(), one.expires_at_us, self.block_bytes)

    def store(self, name: bytes, parts: Parts, seal: Seal, *, wait: bool, durable: bool) -> Pending:
        """Write an object of this name, and commit it; returns before the answer."""
        pending = self._written(name, self._offset_of(name), parts, seal)
        if durable:
            self.begin_page()
        pending.version = self.version_at(pending.offset)  # before it may be committed
        self.commits.add(pending, wait=wait, durable=durable)
        if self.commits.newest.get(pending.offset) is pending:  # else another thread has had its answer
            pending.known = self._know(name, pending.version, pending.keys, pending.since, seal)
        return pending

    def _offset_of(self, name: bytes) -> int:
        """Returns its slot's first sector, which takes a hash of a name that is not known."""
        position = self.positions.young.get(name)
        return position.keys[0].offset if position is not None and position.keys else offset_of(name)

    def version_of(self, name: bytes) -> int:
        """Returns the change counter of the name's slot, as it is now."""
        return self.version_at(offset_of(name))

    def version_at(self, offset: int) -> int:
        """Returns the change counter of the slot at this offset, as it is now."""
        return self.changes.counter(self.inode, offset)

    def written(self, name: bytes, parts: Parts, seal: Seal, *, durable: bool) -> Pending:
        """Write an object of this name, which is not committed yet; durable: it is to be."""
        pending = self._written(name, offset_of(name), parts, seal)
        if durable:
            self.begin_page()
        return pending

    def begin_page(self) -> None:
        """Have later objects share no page with those written so far, which are about to be made durable."""
        self._carver.begin_page()

    def release(self, pending: Pending) -> None:
        """Return the space of what was written and not committed."""
        self.at.send_oneway(verbs.release_message(tuple(pending.keys)))

    def release_leases(self) -> None:
        """Return all space that was leased and not used: nothing is being written, nor will be.

        The daemon would keep it from others until this process ends, or for its grace.
        """
        with suppress(BcachedError):  # the daemon takes it back with the connection
            unused = (*self._leases.take_granted(), *self._carver.take_all())
            self.at.send_oneway(verbs.release_message(unused))

    def store_record(self, name: bytes, parts: Parts) -> Pending:
        """Write a record on the object of this name, and commit it; returns before the answer."""
        pending = self._written(name, offset_of(name) + RECORD_AT, parts, None)
        self.commits.add(pending)
        return pending

    def _written(self, name: bytes, offset: int, parts: Parts, seal: Seal | None) -> Pending:
        if not self._may_write:  # it has no lease
            raise PermissionDenied(WRITER)
        keys: list[Key] = []
        sectors = sum(map(len, parts)) // SECTOR_BYTES
        write = object()
        try:
            self.at.begin_write(write)
            self._write(offset, sectors, parts, keys)
        except BaseException:
            self.at.send_oneway(verbs.release_message(tuple(keys)))
            raise
        finally:
            self.at.end_write(write)
        if self._carver.unused:
            self.at.send_oneway(verbs.release_message(self._carver.take_unused()))
        return Pending(name, offset, keys, self._leased, seal)

    def _write(self, offset: int, sectors: int, parts: Parts, keys: list[Key]) -> None:
        """Cut extents and write them; later buckets are on their way meanwhile.

        A long object's extents are on their way to the device, too: else it is idle until the next flush,
        for which new buckets may wait.
        """
        write_parts, is_long = self.at.data.write_parts, sectors * SECTOR_BYTES >= LONG_BYTES
        self._leases.keep_ahead(sectors, self._carver.sectors_left - sectors)
        if sectors <= self._carver.sectors_at_once:  # as most of the time
            key = self._carver.cut(self.inode, offset, sectors)
            keys.append(key)
            for pointer in key.pointers:
                write_parts(pointer, parts, write_back=is_long)
            return
        left = None
        while sectors:
            reserved = self._reserved(offset, sectors)
            keys += reserved
            for key in reserved:
                if left is None and key.sectors < sectors:
                    left = PartsLeft(parts)
                own = parts if left is None else left.take(key.sectors * SECTOR_BYTES)
                for pointer in key.pointers:
                    write_parts(pointer, own, write_back=is_long)
                offset, sectors = offset + key.sectors, sectors - key.sectors

    def _reserved(self, offset: int, sectors: int) -> Sequence[Key]:
        """Returns space for an extent, or for its first part.

        1. It is cut from a leased bucket. 2. There is none, nor any more to lease: where blocks are whole
        pages, sectors of buckets that other clients use, too. 3. Else NoFreeBuckets, with the reason.
        """
        carver, has_own_pages = self._carver, not self.block_bytes % PAGE_BYTES
        if carver.needs_lease(sectors):
            try:
                carver.lease(self._leases.take(LEASE_MS if has_own_pages else LEASE_MS_ELSE))
            except NoFreeBuckets as error:
                if not has_own_pages:
                    error.add_note(
                        f"a cache on blocks of {self.block_bytes} bytes takes whole buckets: "
                        "the set is too small for its clients, or full of dirty or held data"
                    )
                    raise
                keys = self.channel.ask(verbs.allocate(self.at, self.inode, offset, sectors, whole=True))
                self._leased = self.gens.now()
                return keys
            self._leased = self.gens.now()
        return (carver.cut(self.inode, offset, sectors),)

    def flush(self) -> None:
        """Make all that is committed durable."""
        self.channel.ask(verbs.flush(self.at))

    # Looking up

    def find_known(self, name: bytes, position: Position) -> StoredObject | None:
        """Returns what find would, without a request. Raises StaleRead if that is not certain."""
        found, now = None, self.gens.now()
        offset = position.keys[0].offset if position.keys else offset_of(name)
        if self.changes.counter(self.inode, offset) != position.version:
            raise StaleRead
        if position.keys:
            found = self.reader.read(name, offset, position.keys, position.since)
        elif self.changes.life != position.since.life or not self.at.is_connected:
            raise StaleRead
        # The counter comes last: the object was the newest one when it was read.
        if self.changes.counter(self.inode, offset) != position.version:
            raise StaleRead
        if all(len(key.pointers) == 1 for key in position.keys):
            position.since = now  # those pointers were valid after that
        if found is None:
            self._hits.miss()
        else:
            self._hits.hit(position.keys[0].pointers[0], len(found.value))
            self._know(name, position.version, position.keys, position.since, found.seal)
        return found

    def _know(self, name: bytes, version: int, keys: Sequence[Key], since: Instant, seal: Seal) -> Position:
        """Have the next read of an object take the shortest path; returns as what."""
        if keys[0].sectors * SECTOR_BYTES < CHECKED_AT + len(seal.head):
            position = Position(version, keys, since)  # the header is divided: rare, and left to the reader
        else:
            counter = self.changes.index(self.inode, keys[0].offset)
            position = KnownObject(version, keys, since, seal, self._members, counter)
        self.positions.put(name, position)
        return position

    def _remember(self, one: Pending, version: int) -> None:
        """Remember an object that we have committed, unless a later one of ours is under way."""
        if one.seal is None or self.commits.newest.get(one.offset, one) is not one:
            return
        if one.known is None:
            self._know(one.name, version, one.keys, one.since, one.seal)
        else:
            one.known.version = version
            self.positions.put(one.name, one.known)

    def _refuse(self, objects: Sequence[Pending]) -> None:
        """Have objects that were not committed be read no more: older ones may be in their places."""
        for one in objects:
            if one.known is not None:
                one.known.version = NEVER
            self.refused.append(one.offset)

    def find(self, name: bytes, offset: int) -> StoredObject | None:
        """Returns the newest object of this name that was committed, by any client."""
        if (placed := self.placed.at(name, offset)) is not None:
            return placed
        for _ in range(TRIES):
            since, version = self.gens.now(), self.changes.counter(self.inode, offset)
            found = self.channel.ask(verbs.lookup(self.at, self.inode, offset, SLOT_SECTORS))
            keys = list(found.keys)
            while found.next is not None:
                rest = offset + SLOT_SECTORS - found.next
                found = self.channel.ask(verbs.lookup(self.at, self.inode, found.next, rest))
                keys += found.keys
            try:
                return self._read(name, offset, version, keys, since)
            except StaleRead:
                continue
        return None

    def find_own(self, name: bytes, pending: Pending) -> StoredObject | None:
        """Returns an object that this connection has stored and not committed yet."""
        try:
            return self.reader.read(name, pending.offset, pending.keys, pending.since)
        except StaleRead:
            return None

    def find_many(self, names: Sequence[bytes]) -> list[StoredObject | None]:
        """Returns the objects of these names, with few round trips."""
        objects: list[StoredObject | None] = []
        for start in range(0, len(names), MANY_MAX):
            batch = [(name, offset_of(name)) for name in names[start : start + MANY_MAX]]
            since, versions = self.gens.now(), [self.changes.counter(self.inode, one[1]) for one in batch]
            requests = [Lookup(self.inode, offset, SLOT_SECTORS) for _, offset in batch]
            answers = self.channel.ask(verbs.lookup_many(self.at, requests))
            for (name, offset), version, found in zip(batch, versions, answers, strict=True):
                try:
                    if found.next is not None:
                        raise StaleRead
                    objects.append(self._read(name, offset, version, found.keys, since))
                except StaleRead:
                    objects.append(self.find(name, offset))
        return objects

    def _read(
        self, name: bytes, offset: int, version: int, keys: Sequence[Key], since: Instant
    ) -> StoredObject | None:
        """Returns the object in keys that were looked up, and remembers it. Raises StaleRead."""
        read = self.reader.read(name, offset, keys, since)
        if read is not None:
            self._know(name, version, keys, since, read.seal)
        elif not keys:  # else another name's, or one that has lost a part
            self.positions.put(name, Position(version, keys, since))
        return read

    # Dropping

    def send_drops(self, offsets: Iterable[int]) -> list[Call[int]]:
        """Have what is in the slots at these offsets dropped; returns before the answers."""
        offsets = list(offsets)
        if any(one in self.commits.newest for one in offsets):
            self.commits.drain()  # a commit that is refused may be repeated: it must not come after this
        calls = [verbs.invalidate(self.at, self.inode, one, SLOT_SECTORS, durable=False) for one in offsets]
        self.channel.send(*calls)
        return calls

    def dropped(self, calls: Iterable[Call[int]]) -> list[bool]:
        """Wait for the answers, without the lock; returns for each slot whether there was something."""
        found = []
        for call in calls:
            self.channel.news(call)
            found.append(call.outcome() > 0)
        return found

    def drop_all(self, sectors: int) -> None:
        """Drop everything in the volume."""
        self.commits.drain()
        self.channel.ask(verbs.invalidate(self.at, self.inode, 0, sectors, durable=False))
