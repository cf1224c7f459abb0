"""The asyncio client: one method for each of the socket's, and reading and writing the data itself."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from bcached.client.channel import Channel
from bcached.client.data_paths import DataPaths
from bcached.client.gens import Gens, Instant
from bcached.client.lease import Lease
from bcached.client.state_view import StateView
from bcached.errors import ConnectionLost, StaleKey
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from bcached.wire import messages
from bcached.wire.messages import Extent, Found, Lookup, Orphan, Policy, State, Volume
from bcached.wire.methods import ADMIN, ALLOCATOR, METHODS, MONITOR, Request

SOCKET_PATH = "/run/bcached/io.bcached"
WRITERS = 4  # writes under way at once; more gain nothing on one device

FETCH_TRIES = 16  # reads in a row that come too late: the set is turned over faster than it is read
NOT_ENTERED = "it is made by `with` or `async with`"

R = TypeVar("R", bound=messages.Results)


class Piece(NamedTuple):
    """Sectors of a volume that were found, and from which sector on they are."""

    offset: int
    data: bytes


class Client:
    """A connection to the daemon, with all that it holds.

    Calls may be made concurrently: they are pipelined, and start in the order they were made. Whoever is
    not at least an allocator takes no lease and cannot write.
    patience_s is how long to wait for a daemon that is away, as during a restart.
    """

    def __init__(self, path: str = SOCKET_PATH, *, patience_s: float = 0.0) -> None:
        self.path = path
        self._patience_s = patience_s
        self._entered: Channel | None = None
        self._described: messages.Description | None = None
        self._data: DataPaths
        self._lease: Lease | None = None
        self._gens: Gens | None = None
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="bcached-client")
        self._writes = 0  # under way
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}

    async def __aenter__(self) -> Self:
        """Connect, and take the lease."""
        self._entered = await Channel.open(self.path, self._patience_s)
        try:
            self._described = await self._call(
                ALLOCATOR, "Describe", messages.Nothing(), messages.Description
            )
            self._data = DataPaths(self.description.devices)
            if self.description.role in ("allocator", "admin"):
                self._lease = Lease(self.description.lease_path)
            self._channel.lost.add_done_callback(lambda _: self._let_go_when_idle())
        except BaseException:
            self._channel.abort()
            await self._channel.lost
            self._let_go_when_idle()
            self._pool.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; then, when the last write has returned, let the lease go."""
        await self._channel.close()
        await asyncio.to_thread(self._pool.shutdown)
        self._let_go_when_idle()
        self._data.close()
        if self._gens is not None:
            self._gens.close()

    @property
    def description(self) -> messages.Description:
        """The set and its devices, and our role."""
        if self._described is None:
            raise ConnectionLost(self.path, NOT_ENTERED)
        return self._described

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands; without it nothing we hold or know is worth anything."""
        return self._entered is not None and self._entered.stands

    # io.bcached.Allocator

    async def allocate(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        write_point: int | None = None,
        write_prio: int | None = None,
        replicas: int | None = None,
        wait: bool | None = None,
        timeout_ms: int | None = None,
        whole: bool | None = None,
    ) -> tuple[Key, ...]:
        """Reserve sectors: one key, perhaps a shorter one; with whole, as many as it takes for all."""
        asked = messages.Allocate(
            inode, offset, sectors, write_point, write_prio, replicas, wait, timeout_ms, whole
        )
        orphaned = partial(self._release_orphan, messages.Allocated, lambda it: it.keys)
        return (await self._call(ALLOCATOR, "Allocate", asked, messages.Allocated, orphaned)).keys

    async def allocate_many(
        self, requests: Iterable[Extent], *, wait: bool | None = None, timeout_ms: int | None = None
    ) -> tuple[tuple[Key, ...], ...]:
        """Reserve for all these extents, or for none."""
        asked = messages.AllocateMany(tuple(requests), wait, timeout_ms)
        orphaned = partial(self._release_orphan, messages.AllocatedMany, lambda it: sum(it.keys, ()))
        return (await self._call(ALLOCATOR, "AllocateMany", asked, messages.AllocatedMany, orphaned)).keys

    async def allocate_bucket(
        self, *, replicas: int | None = None, wait: bool | None = None, timeout_ms: int | None = None
    ) -> Key:
        """Reserve a whole bucket."""
        asked = messages.AllocateBucket(replicas, wait, timeout_ms)
        orphaned = partial(self._release_orphan, messages.OneKey, lambda it: (it.key,))
        return (await self._call(ALLOCATOR, "AllocateBucket", asked, messages.OneKey, orphaned)).key

    async def free_bucket(self, key: Key) -> None:
        """Give a whole bucket back."""
        await self._call(ALLOCATOR, "FreeBucket", messages.FreeBucket(key), messages.Done)

    async def release(self, keys: Sequence[Key]) -> None:
        """End reservations; no write to them may be under way."""
        await self._call(ALLOCATOR, "Release", messages.Release(tuple(keys)), messages.Done)

    async def commit(
        self, keys: Sequence[Key], *, durable: bool | None = None, timeout_ms: int | None = None
    ) -> int:
        """Put keys into the index whose data is written, all at once; the number of their journal entry."""
        asked = messages.Commit(tuple(keys), durable, timeout_ms)
        return (await self._call(ALLOCATOR, "Commit", asked, messages.Committed)).sequence

    async def mark_clean(
        self, keys: Sequence[Key], *, durable: bool | None = None, timeout_ms: int | None = None
    ) -> tuple[bool, ...]:
        """Make dirty keys clean; of each, whether it still was what the index held."""
        asked = messages.MarkClean(tuple(keys), durable, timeout_ms)
        return (await self._call(ALLOCATOR, "MarkClean", asked, messages.MarkedClean)).cleaned

    async def lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        limit: int | None = None,
        pin: bool | None = None,
        touch: bool | None = None,
    ) -> Found:
        """The keys of a range, and where to go on if there are more than the limit."""
        asked = Lookup(inode, offset, sectors, limit, pin, touch)
        orphaned = partial(self._unpin_orphan, messages.Found, lambda it: it.keys) if pin else None
        return await self._call(ALLOCATOR, "Lookup", asked, messages.Found, orphaned)

    async def lookup_many(self, requests: Iterable[Lookup]) -> tuple[Found, ...]:
        """The keys of several ranges, 1,000 in all: one Found for each."""
        asked = messages.LookupMany(tuple(requests))
        pinned = [one.pin for one in asked.requests]
        orphaned = partial(
            self._unpin_orphan,
            messages.FoundMany,
            lambda it: sum((keys for keys, pin in zip(it.keys, pinned, strict=True) if pin), ()),
        )
        many = await self._call(ALLOCATOR, "LookupMany", asked, messages.FoundMany, orphaned)
        return tuple(map(Found, many.keys, many.next))

    async def unpin(self, keys: Sequence[Key]) -> None:
        """Let go what was looked up with a pin."""
        await self._call(ALLOCATOR, "Unpin", messages.Unpin(tuple(keys)), messages.Done)

    async def invalidate(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        durable: bool | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Drop the keys of a range, dirty ones too; how many sectors they covered."""
        asked = messages.Invalidate(inode, offset, sectors, durable, timeout_ms)
        return (await self._call(ALLOCATOR, "Invalidate", asked, messages.Invalidated)).sectors

    async def flush(self) -> int:
        """Make durable all that anybody committed so far; the number of the newest journal entry."""
        return (await self._call(ALLOCATOR, "Flush", messages.Nothing(), messages.Committed)).sequence

    # The data

    async def store(
        self,
        inode: int,
        offset: int,
        data: "bytes | bytearray | memoryview",
        *,
        dirty: bool | None = None,
        durable: bool | None = None,
        write_point: int | None = None,
        replicas: int | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Reserve, write and commit whole blocks: all of them or none. The journal entry's number.

        dirty: they are nowhere else, so they stay until they are marked clean; a flash-only volume's always
        are, and need not be called so.
        """
        view = memoryview(data).cast("B")
        block_bytes = self.description.devices[0].block_sectors * SECTOR_BYTES
        if not view.nbytes or view.nbytes % block_bytes:
            raise ValueError(f"the set's blocks have {block_bytes} bytes, the data {view.nbytes}")
        sectors = view.nbytes // SECTOR_BYTES
        keys = await self.allocate(
            inode,
            offset,
            sectors,
            write_point=write_point,
            replicas=replicas,
            timeout_ms=timeout_ms,
            whole=True,
        )
        writing = asyncio.gather(
            *(self.write(key, _part(view, key.offset - offset, key.sectors)) for key in keys),
            return_exceptions=True,
        )
        try:
            for outcome in await asyncio.shield(writing):
                if outcome is not None:
                    raise outcome
            if dirty is not None:
                keys = tuple(msgspec.structs.replace(key, dirty=dirty) for key in keys)
            return await self.commit(keys, durable=durable, timeout_ms=timeout_ms)
        except BaseException:
            # If the commit is under way it comes first, and there is nothing left to release.
            writing.add_done_callback(lambda _: self._tell_release(keys))
            raise

    async def fetch(
        self, inode: int, offset: int, sectors: int, *, touch: bool | None = None
    ) -> tuple[Piece, ...]:
        """Look up and read what is there of a range, in order, and as its owner wrote it.

        What proves after reading to have been used again meanwhile is looked up anew.
        """
        pieces: list[Piece] = []
        ranges = [(offset, sectors)]
        in_vain = 0
        while ranges:
            start, length = ranges.pop()
            since = await self.now()
            found = await self.lookup(inode, start, length, touch=touch)
            if found.next is not None:
                ranges.append((found.next, start + length - found.next))
            for key in found.keys:
                try:
                    pieces.append(Piece(key.offset, await self.read(key, since)))
                    in_vain = 0
                except StaleKey:
                    in_vain += 1
                    if in_vain == FETCH_TRIES:
                        raise
                    ranges.append((key.offset, key.sectors))
        return tuple(sorted(pieces))

    async def write(self, key: Key, data: "bytes | bytearray | memoryview") -> None:
        """Write an extent we hold, to all its places. Even if you stop waiting, the write goes on."""
        if not self.is_connected or self._lease is None or not self._lease.is_held:
            raise ConnectionLost(self.path, "nothing may be written without the connection and its lease")
        self._writes += 1
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(self._pool, self._data.write, key, data)
        writing.add_done_callback(self._write_returned)
        await asyncio.shield(writing)

    async def read(self, key: Key, since: Instant | None = None) -> bytes:
        """Read an extent. With since, only if it proves to be good afterwards: else StaleKey.

        Without, the bytes are those of the key's first place, which is right for what we hold ourselves.
        """
        loop = asyncio.get_running_loop()
        pointers = key.pointers if since is None else await self.current_pointers(key, since)
        for pointer in pointers:
            data = await loop.run_in_executor(self._pool, self._data.read, pointer, key.sectors)
            if since is None or pointer in await self.current_pointers(key, since):
                return data
        raise StaleKey(key, -1)

    async def now(self) -> Instant:
        """The moment, by the daemon's clocks: take it before you ask for a key, and judge the key by it."""
        return (await self._mapped()).now()

    async def is_current(self, key: Key, since: Instant) -> bool:
        """Whether a key that was good then is good now."""
        return bool(await self.current_pointers(key, since))

    async def current_pointers(self, key: Key, since: Instant) -> tuple[Pointer, ...]:
        """Those places of the key that are good now."""
        good = (await self._mapped()).current(key, since)
        return good if self._channel.stands else ()

    # io.bcached.Admin

    async def status(self) -> State:
        """How the set stands."""
        return (await self._call(ADMIN, "Status", messages.Nothing(), messages.StatusNow)).state

    async def explain(self) -> tuple[str, ...]:
        """Why allocations wait or fail."""
        return (await self._call(ADMIN, "Explain", messages.Nothing(), messages.Lines)).lines

    async def verify(self) -> tuple[str, ...]:
        """What is wrong with the set; nothing, let us hope."""
        return (await self._call(ADMIN, "Verify", messages.Nothing(), messages.Violations)).violations

    async def collect_garbage(self, *, wait: bool | None = None) -> None:
        """Have garbage collected."""
        await self._call(ADMIN, "CollectGarbage", messages.CollectGarbage(wait), messages.Done)

    async def write_priorities(self) -> None:
        """Make prios and gens durable."""
        await self._call(ADMIN, "WritePriorities", messages.Nothing(), messages.Done)

    async def set_replacement(self, policy: Policy) -> None:
        """Choose another replacement policy."""
        await self._call(ADMIN, "SetReplacement", messages.SetReplacement(policy), messages.Done)

    async def set_discard(self, discard: bool) -> None:
        """Turn discards on or off."""
        await self._call(ADMIN, "SetDiscard", messages.SetDiscard(discard), messages.Done)

    async def list_volumes(self) -> tuple[Volume, ...]:
        """All volumes."""
        return (await self._call(ADMIN, "ListVolumes", messages.Nothing(), messages.Volumes)).volumes

    async def list_orphans(self) -> tuple[Orphan, ...]:
        """The inodes without a volume that keys are left of, those with the most dirty sectors first."""
        return (await self._call(ADMIN, "ListVolumes", messages.Nothing(), messages.Volumes)).orphans

    async def create_volume(self, label: str, *, sectors: int | None = None, uuid: str | None = None) -> int:
        """Make a volume; its inode."""
        asked = messages.CreateVolume(label, sectors, uuid)
        return (await self._call(ADMIN, "CreateVolume", asked, messages.NewVolume)).inode

    async def delete_volume(self, inode: int, *, force: bool | None = None) -> None:
        """Remove a volume, or the keys that are left under an inode without one."""
        await self._call(ADMIN, "DeleteVolume", messages.DeleteVolume(inode, force), messages.Done)

    # io.bcached.Monitor

    async def watch(self, interval_ms: int | None = None) -> AsyncGenerator[State, None]:
        """The state, and again whenever it has changed; over a connection of its own."""
        channel = await Channel.open(self.path, self._patience_s)
        news: asyncio.Queue[bytes | None] = asyncio.Queue()
        asked = messages.Watch(interval_ms)
        request = METHODS[f"{MONITOR}.Watch"].request(parameters=asked, more=True)
        ended = channel.send(request, news.put_nowait)
        ended.add_done_callback(lambda _: news.put_nowait(None))
        try:
            view = StateView()
            while (raw := await news.get()) is not None:
                yield view.take(msgspec.json.decode(raw, type=messages.News))
            await ended
        finally:
            channel.abort()
            await channel.lost
            ended.exception()  # seen, whether or not anybody waited for the end

    # Inside

    @property
    def _channel(self) -> Channel:
        if self._entered is None:
            raise ConnectionLost(self.path, NOT_ENTERED)
        return self._entered

    async def _call(
        self,
        interface: str,
        name: str,
        asked: messages.Parameters,
        results: type[R],
        orphaned: Callable[[bytes], None] | None = None,
    ) -> R:
        request: Request = METHODS[f"{interface}.{name}"].request(parameters=asked)
        return self._decode(results, await self._channel.ask(request, orphaned=orphaned))

    def _decode(self, results: type[R], raw: bytes) -> R:
        decoder = self._decoders.get(results)
        if decoder is None:
            decoder = self._decoders[results] = msgspec.json.Decoder(results)
        decoded: R = decoder.decode(raw)
        return decoded

    def _release_orphan(self, results: type[R], keys: Callable[[R], tuple[Key, ...]], raw: bytes) -> None:
        """Give back what came for a caller who had stopped waiting."""
        self._tell_release(keys(self._decode(results, raw)))

    def _unpin_orphan(self, results: type[R], keys: Callable[[R], tuple[Key, ...]], raw: bytes) -> None:
        """Let go what was pinned for a caller who had stopped waiting."""
        if pinned := keys(self._decode(results, raw)):
            asked = messages.Unpin(pinned)
            self._channel.tell(METHODS[f"{ALLOCATOR}.Unpin"].request(parameters=asked, oneway=True))

    def _tell_release(self, keys: tuple[Key, ...]) -> None:
        asked = messages.Release(keys)
        self._channel.tell(METHODS[f"{ALLOCATOR}.Release"].request(parameters=asked, oneway=True))

    async def _mapped(self) -> Gens:
        if self._gens is None:
            files = await self._call(ALLOCATOR, "MapGens", messages.Nothing(), messages.GenMaps)
            if self._gens is None:
                self._gens = Gens(files.maps, self.description.devices)
        return self._gens

    def _write_returned(self, _: "asyncio.Future[None]") -> None:
        self._writes -= 1
        self._let_go_when_idle()

    def _let_go_when_idle(self) -> None:
        """Let the lease go as soon as the connection is gone and no write is under way."""
        if self._lease is not None and not self._channel.stands and not self._writes:
            self._lease.let_go()


def _part(view: memoryview, offset: int, sectors: int) -> memoryview:
    """The bytes of some sectors."""
    return view[offset * SECTOR_BYTES : (offset + sectors) * SECTOR_BYTES]
