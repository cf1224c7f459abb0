# SPDX-License-Identifier: GPL-2.0-only
"""Keys that are committed, looked up, read and dropped through the library."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from bcached.client import Client, Piece
from bcached.client.data.data_paths import DataPaths
from bcached.client.gens import Gens
from bcached.errors import (
    ConnectionLost,
    DeviceError,
    InvalidParameter,
    LimitExceeded,
    NoSuchVolume,
    NotReserved,
    StaleKey,
    VolumeInUse,
)
from bcached.keys import Key, Pointer
from bcached.wire.messages import Found, Lookup
from instruments.clients.served_set import BUCKET_SECTORS, Served, served
from instruments.time.patience import patience


def bytes_of(sectors: int, seed: int = 1) -> bytes:
    return b"".join(bytes([(index * 7 + seed) % 251]) * 512 for index in range(sectors))


def make_stale(it: Served, key: Key) -> None:
    """Have the key's bucket used again: by the gens alone, as if it had been emptied and given out anew."""
    for pointer in key.pointers:
        it.cache_set.members[pointer.device].buckets.table.gens[pointer.sector // BUCKET_SECTORS] += 1


def mend(it: Served, key: Key) -> None:
    for pointer in key.pointers:
        it.cache_set.members[pointer.device].buckets.table.gens[pointer.sector // BUCKET_SECTORS] -= 1


async def until(question: Callable[[], object]) -> None:
    async with patience(20):
        while not question():
            await asyncio.sleep(0.001)


async def test_keys_are_committed_looked_up_and_dropped(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 64)
        dirty = replace(key, dirty=True)
        sequence = await client.commit([dirty])
        assert await client.lookup(0, 0, 128) == Found((dirty,), None)
        assert await client.mark_clean([dirty, replace(dirty, offset=640)]) == (True, False)
        assert await client.lookup(0, 0, 128) == Found((key,))
        assert await client.invalidate(0, 0, 1 << 40) == 64
        assert await client.lookup(0, 0, 128) == Found(())
        assert await client.flush() > sequence


async def test_lookups_of_many_ranges_are_one_call(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        for offset in (0, 64, 640):
            await client.store(0, offset, bytes_of(8, offset))
        first, both, none = await client.lookup_many(
            [Lookup(0, 0, 1024, 1), Lookup(0, 64, 1024, touch=False), Lookup(0, 128, 8, pin=True)]
        )
        assert ([key.offset for key in first.keys], first.next) == ([0], 8)
        assert ([key.offset for key in both.keys], both.next) == ([64, 640], None)
        assert none == Found(())


async def test_pins_are_taken_and_let_go(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, bytes_of(64))
        found = await client.lookup(0, 0, 64, pin=True)
        await client.unpin(found.keys)
        with pytest.raises(NotReserved):
            await client.unpin(found.keys)


async def test_what_was_pinned_for_one_who_stopped_waiting_is_let_go(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, bytes_of(64))
        for asking in (
            client.lookup(0, 0, 64, pin=True),
            client.lookup_many([Lookup(0, 0, 64, pin=True), Lookup(0, 0, 64)]),
        ):
            waiting = asyncio.create_task(asking)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        await client.flush()
        (holder,) = it.cache_set.allocations.holders
        await until(lambda: not holder.reads)


async def test_what_is_stored_is_fetched(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        data = bytes_of(3 * BUCKET_SECTORS + 8)
        assert await client.store(0, 800, data) > 0
        assert it.cache_set.statistics().reserved_sectors == 0
        pieces = await client.fetch(0, 0, 8000)
        assert pieces[0].offset == 800
        assert b"".join(piece.data for piece in pieces) == data
        assert all(not key.dirty for key in (await client.lookup(0, 0, 8000)).keys)
        assert await client.fetch(0, 808, 8) == (Piece(808, data[4096:8192]),)
        assert await client.fetch(0, 0, 800) == ()
        await client.store(0, 816, bytes_of(8, 99), dirty=True, durable=False)
        (piece,) = await client.fetch(0, 816, 8)
        assert piece.data == bytes_of(8, 99)
        assert [key.dirty for key in (await client.lookup(0, 808, 24)).keys] == [False, True, False]


async def test_every_copy_is_stored_and_one_good_one_is_enough(tmp_path: Path) -> None:
    async with served(tmp_path, image=True, members=2) as it, Client(it.path) as client:
        await client.store(0, 0, bytes_of(16), replicas=2)
        (key,) = (await client.lookup(0, 0, 16)).keys
        assert {pointer.device for pointer in key.pointers} == {0, 1}
        for one in key.pointers:
            half = replace(key, pointers=(one,))
            make_stale(it, half)
            assert await client.fetch(0, 0, 16) == (Piece(0, bytes_of(16)),)
            (left,) = (await client.lookup(0, 0, 16)).keys
            assert one not in left.pointers
            mend(it, half)


async def test_a_flash_only_volume_needs_no_word_about_dirty(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        inode = await client.create_volume("flash", sectors=8000)
        await client.store(inode, 0, bytes_of(16))
        (key,) = (await client.lookup(inode, 0, 16)).keys
        assert key.dirty
        with pytest.raises(InvalidParameter):
            await client.store(inode, 0, bytes_of(16, 5), dirty=False)
        await until(lambda: it.cache_set.statistics().reserved_sectors == 0)
        assert await client.fetch(inode, 0, 16) == (Piece(0, bytes_of(16)),)
        with pytest.raises(VolumeInUse, match="holds 16 dirty sectors"):
            await client.delete_volume(inode)
        await client.delete_volume(inode, force=True)
        with pytest.raises(NoSuchVolume):
            await client.fetch(inode, 0, 16)


async def test_parts_of_blocks_are_refused_before_anything_is_reserved(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        for data in (b"", b"x", bytes(4095), bytes(8192 + 512)):
            with pytest.raises(ValueError, match="blocks have 4096 bytes"):
                await client.store(0, 0, data)
        with pytest.raises(InvalidParameter):
            await client.store(0, 3, bytes(4096))
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_more_than_fits_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        with pytest.raises(LimitExceeded):
            await client.store(0, 0, bytes(64 << 20))


async def test_a_store_whose_write_fails_gives_its_sectors_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_paths: DataPaths, key: Key, _data: memoryview) -> None:
        if key.offset:
            raise DeviceError("image0", "cannot write: Input/output error")

    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        monkeypatch.setattr(DataPaths, "write", broken)
        with pytest.raises(DeviceError, match="cannot write"):
            await client.store(0, 0, bytes_of(2 * BUCKET_SECTORS))
        await until(lambda: it.cache_set.statistics().reserved_sectors == 0)
        assert await client.lookup(0, 0, 1024) == Found(())


async def test_a_store_that_is_given_up_keeps_its_sectors_until_its_writes_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, real, loop = asyncio.Event(), DataPaths.write, asyncio.get_running_loop()

    def slow(paths: DataPaths, key: Key, data: memoryview) -> None:
        asyncio.run_coroutine_threadsafe(may_write.wait(), loop).result()
        real(paths, key, data)

    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        monkeypatch.setattr(DataPaths, "write", slow)
        storing = asyncio.create_task(client.store(0, 0, bytes_of(16)))
        await until(lambda: it.cache_set.statistics().reserved_sectors == 16)
        await asyncio.sleep(0.02)
        storing.cancel()
        await asyncio.wait([storing])
        assert storing.cancelled()
        await asyncio.sleep(0.02)
        assert it.cache_set.statistics().reserved_sectors == 16
        may_write.set()
        await until(lambda: it.cache_set.statistics().reserved_sectors == 0)
        assert await client.lookup(0, 0, 1024) == Found(())


async def test_what_was_used_again_while_it_was_read_is_looked_up_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reads = DataPaths.read, list[Pointer]()

    def read_while_it_changes(paths: DataPaths, pointer: Pointer, sectors: int) -> bytes:
        data = real(paths, pointer, sectors)
        if not reads:
            make_stale(it, key)
        reads.append(pointer)
        return data

    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, bytes_of(16))
        await client.store(0, 640, bytes_of(16, 3))
        (key, other) = (await client.lookup(0, 0, 1024)).keys
        assert key.pointers[0].sector // BUCKET_SECTORS == other.pointers[0].sector // BUCKET_SECTORS
        monkeypatch.setattr(DataPaths, "read", read_while_it_changes)
        assert await client.fetch(0, 0, 1024) == ()  # both lie in that bucket, and neither is there any more
        assert len(reads) == 2
        mend(it, key)
        assert await client.fetch(0, 0, 1024) == (Piece(0, bytes_of(16)), Piece(640, bytes_of(16, 3)))


async def test_a_range_that_is_always_read_too_late_is_an_error_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, bytes_of(16))
        monkeypatch.setattr(Gens, "_may_judge", lambda *_: False)
        with pytest.raises(StaleKey):
            await client.fetch(0, 0, 16)


async def test_nothing_is_fetched_from_a_daemon_that_is_gone(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "s"))
    async with served(tmp_path, image=True) as it:
        await client.__aenter__()
        await client.store(0, 0, bytes_of(16))
        assert await client.fetch(0, 0, 16) == (Piece(0, bytes_of(16)),)
        assert it.server.statistics().connections == 1
    for asking in (client.fetch(0, 0, 16), client.store(0, 0, bytes(4096)), client.flush()):
        with pytest.raises(ConnectionLost):
            await asking
    await client.__aexit__(None, None, None)
