# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcached.client import Client, Piece
from bcached.client.channel import Channel
from bcached.client.protocol.refusals import refusal_from
from bcached.client.protocol.verbs import describe
from bcached.device.claims.lease_file import OldLease
from bcached.errors import (
    AmbiguousLabel,
    BadMagic,
    BcachedError,
    ClientClosed,
    ConnectionLost,
    DeviceError,
    InvalidParameter,
    InvalidValue,
    LimitExceeded,
    NoFreeBuckets,
    NoSuchVolume,
    NotReserved,
    PermissionDenied,
    RequestError,
    StaleKey,
)
from bcached.keys import Key, Pointer
from bcached.service.users.access import Access, Role
from bcached.service.users.socket_limits import SocketLimits
from bcached.wire.change_map import COUNTERS
from bcached.wire.codec import Refusal, encode_replies
from bcached.wire.messages import Bucket, Extent, Lookup
from instruments.clients.served_set import BUCKET_SECTORS, SET_BYTES, Served, served
from instruments.clients.stranger import stranger
from instruments.devices.loop_device import loop_device
from instruments.time.patience import patience


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def bytes_of(key: Key, seed: int = 1) -> bytes:
    return bytes((index * seed) % 251 for index in range(512)) * key.sectors


def is_locked(path: str) -> bool:
    """Whether a client holds the lease."""
    return not OldLease(path, "").is_released()


async def exhaust(it: Served, client: Client) -> list[Key]:
    """Every bucket there is, held by the client."""
    keys: list[Key] = []
    async with patience(60):
        while True:
            try:
                keys.append(await client.allocate_bucket(timeout_ms=300))
            except NoFreeBuckets:
                if it.is_exhausted:
                    return keys


async def until(question: Callable[[], object]) -> None:
    async with patience(20):
        while not question():
            await asyncio.sleep(0.001)


class RoleForAll(Access):
    def __init__(self, role: Role) -> None:
        super().__init__([], [], [])
        self._uids[os.geteuid()] = role


# Allocating


async def test_reserving_and_releasing(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 64)
        assert isinstance(key, Key)
        assert (key.inode, key.offset, key.sectors, key.dirty) == (0, 0, 64, False)
        assert it.cache_set.statistics().reserved_sectors == 64
        await client.release([key])
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_all_kinds_of_allocating(folder: Path) -> None:
    async with served(folder, members=2) as it, Client(it.path) as client:
        keys = await client.allocate(0, 0, 5 * BUCKET_SECTORS, whole=True, replicas=2, write_point=9)
        assert sum(key.sectors for key in keys) == 5 * BUCKET_SECTORS
        assert {len(key.pointers) for key in keys} == {2}
        ((one,), (other,)) = await client.allocate_many([Extent(0, 0, 8), Extent(0, 800, 8)])
        assert (one.offset, other.offset) == (0, 800)
        bucket = await client.allocate_bucket()
        await client.free_bucket(bucket)
        await client.release([*keys, one, other])
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_calls_made_together_are_pipelined_in_their_order(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        calls = [client.allocate(0, 8 * index, 8) for index in range(300)]
        answers = await asyncio.gather(*calls)
        assert [key.offset for (key,) in answers] == [8 * index for index in range(300)]
        sectors = [key.pointers[0].sector for (key,) in answers]
        assert sectors == sorted(sectors)


@pytest.mark.parametrize(
    ("wrong", "error", "fields"),
    [
        ((0, 1, 8), InvalidParameter, {"parameter": "offset"}),
        ((0, -8, 8), InvalidParameter, {"parameter": "offset"}),
        ((7, 0, 8), NoSuchVolume, {"inode": 7}),
    ],
)
async def test_errors_are_those_of_the_daemon(
    folder: Path, wrong: tuple[int, ...], error: type[RequestError], fields: dict[str, Any]
) -> None:
    async with served(folder) as it, Client(it.path) as client:
        with pytest.raises(error) as refused:
            await client.allocate(*wrong)
        assert refused.value.fields.items() >= fields.items()
        assert client.is_connected


async def test_an_errors_key_is_a_key(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 8)
        await client.release([key])
        with pytest.raises((NotReserved, StaleKey)) as refused:
            await client.release([key])
        assert refused.value.fields["key"] == key


async def test_numbers_of_limits_come_along(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        with pytest.raises(LimitExceeded) as refused:
            await client.allocate(0, 0, 8, replicas=2)
        assert refused.value.fields == {"limit": "replicas", "value": 2}
        await exhaust(it, client)
        with pytest.raises(NoFreeBuckets) as full:
            await client.allocate(0, 0, 8, wait=False)
        assert full.value.fields == {"reserve": "none", "waited_ms": 0}


async def test_what_cannot_be_sent_takes_no_answer_away_from_the_requests_that_can(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        before = asyncio.ensure_future(client.allocate(0, 0, 64))
        await asyncio.sleep(0)
        with pytest.raises(TypeError, match="numpy"):
            await client.lookup(0, np.int64(8), 8)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="expected text that UTF-8 has"):
            await client.create_volume("\udcff")
        async with patience(10):
            (key,) = await before
            assert (key.offset, key.sectors) == (0, 64)
            assert not (await client.lookup(0, 0, 64)).keys


async def test_what_is_granted_to_one_who_stopped_waiting_is_given_back(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as holder, Client(it.path) as client:
        keys = await exhaust(it, holder)
        waiting = asyncio.create_task(client.allocate(0, 0, 8))
        await until(lambda: it.cache_set.statistics().waiters["none"])
        waiting.cancel()
        await asyncio.wait([waiting])
        for key in keys[:8]:
            await holder.free_bucket(key)
        left = (len(keys) - 8) * BUCKET_SECTORS
        await until(lambda: it.cache_set.statistics().waiters["none"] == 0)
        await until(lambda: it.cache_set.statistics().reserved_sectors == left)
        (key,) = await client.allocate(0, 0, 8)
        assert key.sectors == 8


async def test_what_came_in_the_moment_its_caller_was_cancelled_is_given_back(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:

        async def cancel_the_other() -> None:
            await client.allocate(0, 0, 8)
            waiting.cancel()

        first = asyncio.create_task(cancel_the_other())  # both answers come in one read
        waiting = asyncio.create_task(client.allocate(0, 8, 16))
        await asyncio.wait([first, waiting])
        assert waiting.cancelled()
        await until(lambda: it.cache_set.statistics().reserved_sectors == 8)


async def test_who_had_to_wait_before_he_could_ask_is_not_overtaken(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        channel = client._channel
        channel.pause_writing()
        asked = [asyncio.create_task(client.allocate(0, 8 * number, 8)) for number in range(3)]
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_soon(channel.resume_writing)
        asked.append(asyncio.create_task(client.allocate(0, 24, 8)))
        sectors = [key.pointers[0].sector for (key,) in await asyncio.gather(*asked)]
        assert sectors == sorted(sectors)


async def test_leaving_does_not_wait_for_a_daemon_that_does_not_read(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        channel = await Channel.open(str(folder / "s"))
        calls = [describe() for _ in range(20_000)]
        for call in calls:
            channel.send(call)
        await asyncio.sleep(0.01)
        async with patience(10):
            await channel.close()
        for call in calls:
            with pytest.raises(ClientClosed):
                call.outcome()


# Administration


async def test_administration(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        state = await client.status()
        assert state.set_uuid == client.description.set_uuid
        assert state.members[0].bucket_count == client.description.devices[0].bucket_count
        assert isinstance(await client.explain(), tuple)
        assert await client.verify() == ()
        await client.collect_garbage()
        await client.collect_garbage(wait=False)
        await client.write_priorities()
        await client.set_replacement("random")
        await client.set_discard(True)
        state = await client.status()
        assert (state.replacement, state.discard) == ("random", True)
        inode = await client.create_volume("second", sectors=800, uuid="5f1cbc5c-9d3c-4a0c-8a0c-0123456789ab")
        (_, volume) = await client.list_volumes()
        assert (volume.inode, volume.label, volume.sectors) == (inode, "second", 800)
        assert volume.uuid == "5f1cbc5c-9d3c-4a0c-8a0c-0123456789ab"
        await client.delete_volume(inode, force=True)
        assert len(await client.list_volumes()) == 1


async def test_a_volume_by_its_label_and_a_report_of_reads(folder: Path) -> None:
    async with served(folder), Client(str(folder / "s")) as client:
        assert await client.open_volume("first") == (0, False)
        assert await client.open_volume("cache") == (1, True)
        assert [volume.label for volume in await client.volumes()] == ["first", "cache"]
        await client.create_volume("cache")
        with pytest.raises(AmbiguousLabel) as refused:
            await client.open_volume("cache")
        assert refused.value.fields == {"label": "cache", "inodes": [1, 2]}
        (key,) = await client.allocate(0, 0, 8)
        pointer = key.pointers[0]
        read = Bucket(pointer.device, pointer.sector // BUCKET_SECTORS, pointer.gen)
        await client.touch([read], hits=2, misses=1, hit_bytes=4096)
        await client.touch([])
        state = await client.status()
        assert (state.client_hits, state.client_misses, state.client_hit_bytes) == (2, 1, 4096)
        with pytest.raises(InvalidParameter):
            await client.touch([Bucket(0, 1 << 40, 0)], hits=1)
        with pytest.raises(InvalidParameter):
            await client.touch([], hits=-1)
        assert (await client.status()).client_hits == 2


async def test_commits_with_conditions_and_the_map_of_changes(folder: Path) -> None:
    async with served(folder), Client(str(folder / "s")) as client:
        file = await client.map_changes()
        assert file.bytes == 4096 + 8 * COUNTERS
        (key,) = await client.allocate(0, 0, 48)
        first = await client.commit_if([key], versions=True)
        assert (first.versions, first.committed) == ((1,), None)
        (key,) = await client.allocate(0, 0, 8)
        second = await client.commit_if([key], versions=True, replaces=[Lookup(0, 0, 1 << 17)])
        assert second.versions == (3,), "a deletion and a key"
        (key,) = await client.allocate(0, 0, 8)
        third = await client.commit_if([key], if_absent=True, durable=False)
        assert (third.versions, third.committed) == (None, (False,))
        assert [found.sectors for found in (await client.lookup(0, 0, 1000)).keys] == [8]


async def test_a_watch_gives_the_state_whenever_it_changed(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        seen = []
        async for state in client.watch(100):
            seen.append(state)
            if state.allocated_sectors >= 16:
                break
            await client.allocate(0, 0, 8)
        assert [state.allocated_sectors for state in seen[:2]] == [0, 8]
        assert sum(seen[-1].members[0].buckets.values()) == seen[-1].members[0].bucket_count
        assert client.is_connected


async def test_a_watch_ends_with_the_daemon(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        states = client.watch(100)
        assert (await anext(states)).allocated_sectors == 0
        it.server.drain()
        with pytest.raises(BcachedError):
            await anext(states)


# Data


async def test_what_is_written_is_read_and_lies_where_the_key_says(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 64)
        await client.write(key, bytes_of(key))
        assert await client.read(key) == bytes_of(key)
        with open(client.description.devices[0].data_path, "rb") as image:
            image.seek(key.pointers[0].sector * 512)
            assert image.read(key.sectors * 512) == bytes_of(key)


async def test_every_copy_is_written_and_each_can_be_read(folder: Path) -> None:
    async with served(folder, image=True, members=2) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 16, replicas=2)
        await client.write(key, bytes_of(key, 3))
        for pointer in key.pointers:
            assert await client.read(Key(0, 0, 16, False, (pointer,))) == bytes_of(key, 3)


async def test_data_of_another_length_than_the_key_is_refused_unwritten(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 16)
        for data in (b"", bytes(16 * 512 - 1), bytes(17 * 512)):
            with pytest.raises(ValueError, match="the key has 8192 bytes"):
                await client.write(key, data)
        assert await client.read(key) == bytes(16 * 512)


async def test_any_buffer_will_do(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 8)
        for data in (
            bytearray(bytes_of(key)),
            memoryview(bytes_of(key, 5)),
            memoryview(bytes_of(key)).cast("I"),
        ):
            await client.write(key, data)
            assert await client.read(key) == bytes(data)


async def test_a_key_of_no_device_is_an_error_not_a_write(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path) as client:
        key = Key(0, 0, 8, False, (Pointer(5, 8000, 0),))
        with pytest.raises(DeviceError, match="no such member"):
            await client.write(key, bytes(4096))
        beyond = Key(0, 0, 8, False, (Pointer(0, 1 << 40, 0),))
        with pytest.raises(DeviceError, match="cannot read at sector"):
            await client.read(beyond)


@pytest.mark.root
async def test_what_is_stored_on_a_device_named_by_a_link_is_fetched(folder: Path) -> None:
    image = folder / "disk"
    image.write_bytes(b"")
    os.truncate(image, SET_BYTES)
    link = Path("/dev") / f"bcached-by-id-{os.getpid()}"
    with loop_device(image) as path:
        link.symlink_to(path)
        try:
            async with served(folder, paths=[str(link)]) as it, Client(it.path) as client:
                assert client.description.devices[0].path == str(link)
                await client.store(0, 64, b"by-id..." * 1024)
                assert await client.fetch(0, 0, 1024) == (Piece(64, b"by-id..." * 1024),)
        finally:
            link.unlink()


async def test_a_small_block_needs_direct_io_or_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.client.data.data_paths.os.O_DIRECT", 1 << 29)
    real_open = os.open

    def open_without_direct_io(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & 1 << 29:
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, *rest, **named)

    async with served(folder, image=True, block_bytes=512) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 1)
        monkeypatch.setattr("bcached.client.data.data_paths.os.open", open_without_direct_io)
        with pytest.raises(DeviceError, match="smaller than a page"):
            await client.write(key, bytes(512))
        monkeypatch.undo()
        await client.write(key, b"x" * 512)
        assert await client.read(key) == b"x" * 512


async def test_buffered_io_serves_where_there_is_no_direct_io(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def open_without_direct_io(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, *rest, **named)

    async with served(folder, image=True, block_bytes=4096) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 8)
        monkeypatch.setattr("bcached.client.data.data_paths.os.open", open_without_direct_io)
        await client.write(key, bytes_of(key))
        assert await client.read(key) == bytes_of(key)


async def test_what_is_in_memory_is_read_without_a_thread(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path, direct=False) as client:
        await client.store(0, 0, b"in-memory......." * 256)
        (first,) = await client.fetch(0, 0, 8)
        client._pool.shutdown()
        assert await client.fetch(0, 0, 8) == (first,)
        assert first.data == b"in-memory......." * 256


async def test_the_page_cache_is_for_blocks_of_whole_pages(folder: Path) -> None:
    async with served(folder, image=True, block_bytes=512) as it, Client(it.path, direct=False) as client:
        (key,) = await client.allocate(0, 0, 1)
        for transfer in (client.write(key, bytes(512)), client.read(key)):
            with pytest.raises(
                DeviceError, match="page cache is to be used, and the set's blocks are smaller"
            ):
                await transfer


async def test_direct_and_cached_clients_see_the_same_bytes(folder: Path) -> None:
    async with (
        served(folder, image=True) as it,
        Client(it.path) as direct,
        Client(it.path, direct=False) as cached,
    ):
        for number in range(20):
            data = b"%015d\n" % number * 1024
            await (direct, cached)[number % 2].store(0, 0, data, durable=False)
            for client in (cached, direct, cached):
                assert b"".join(piece.data for piece in await client.fetch(0, 0, 32)) == data


# Gens


async def test_a_key_is_current_until_its_buckets_gen_moves(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        since = await client.now()
        (key,) = await client.allocate(0, 0, 8)
        assert await client.is_current(key, since)
        pointer = key.pointers[0]
        stale = Key(0, 0, 8, False, (Pointer(0, pointer.sector, (pointer.gen + 1) % 256),))
        assert not await client.is_current(stale, since)
        it.cache_set.members[0].buckets.table.gens[pointer.sector // BUCKET_SECTORS] += 1
        assert not await client.is_current(key, since)
        it.cache_set.members[0].buckets.table.gens[pointer.sector // BUCKET_SECTORS] -= 1


async def test_a_key_with_one_good_copy_is_current(folder: Path) -> None:
    async with served(folder, members=2) as it, Client(it.path) as client:
        since = await client.now()
        (key,) = await client.allocate(0, 0, 8, replicas=2)
        bad, good = key.pointers
        half = Key(0, 0, 8, False, (Pointer(bad.device, bad.sector, (bad.gen + 7) % 256), good))
        assert await client.current_pointers(half, since) == (good,)
        outside = Key(0, 0, 8, False, (Pointer(0, 1 << 40, 0), Pointer(9, 0, 0)))
        assert not await client.is_current(outside, since)


async def test_after_two_collections_nothing_old_is_current(folder: Path) -> None:
    async with served(folder) as it, Client(it.path) as client:
        since = await client.now()
        (key,) = await client.allocate(0, 0, 8)
        await client.collect_garbage()
        assert await client.is_current(key, since)
        await client.collect_garbage()
        assert not await client.is_current(key, since)
        assert await client.is_current(key, await client.now())


async def test_a_read_that_proves_stale_is_an_error(folder: Path) -> None:
    async with served(folder, image=True) as it, Client(it.path) as client:
        since = await client.now()
        (key,) = await client.allocate(0, 0, 8)
        await client.write(key, bytes_of(key))
        assert await client.read(key, since) == bytes_of(key)
        table = it.cache_set.members[0].buckets.table
        table.gens[key.pointers[0].sector // BUCKET_SECTORS] += 1
        with pytest.raises(StaleKey, match=r"key is stale, or has no such bucket: Key\("):
            await client.read(key, since)
        table.gens[key.pointers[0].sector // BUCKET_SECTORS] -= 1


# The lease and the end


async def test_the_lease_is_held_while_connected_and_no_longer(folder: Path) -> None:
    async with served(folder) as it:
        client = Client(it.path)
        assert not is_locked(it.cache_set.lease_path)
        async with client:
            assert is_locked(it.cache_set.lease_path)
        assert not is_locked(it.cache_set.lease_path)


async def test_a_lease_that_is_gone_keeps_the_client_out(folder: Path) -> None:
    async with served(folder) as it:
        lease = Path(it.cache_set.lease_path)
        lease.rename(folder / "elsewhere")
        with pytest.raises(DeviceError, match="cannot open the lease"):
            async with Client(it.path):
                pass
        await until(lambda: it.server.statistics().connections == 0)
        (folder / "elsewhere").rename(lease)


@pytest.mark.parametrize("how", ["LOCK_EX", "LOCK_SH", "F_RDLCK"])
async def test_no_lock_that_another_client_can_take_keeps_a_client_out(folder: Path, how: str) -> None:
    async with served(folder, image=True) as it:
        lease = it.cache_set.lease_path
        with stranger(lease, how):
            async with Client(it.path) as client:
                (key,) = await client.allocate(0, 0, 8)
                await client.write(key, bytes(4096))
            assert is_locked(lease), "the other client's lock stays"
        await until(lambda: not is_locked(lease))


async def test_no_client_can_take_the_lease_for_itself(folder: Path) -> None:
    async with served(folder) as it:
        lease = it.cache_set.lease_path
        assert Path(lease).stat().st_mode & 0o777 == 0o440, "clients read it and no more"
        with pytest.raises(OSError, match="Bad file descriptor"), stranger(lease, "F_WRLCK"):
            pass


@pytest.mark.parametrize("damage", [b"", b"x" * 8, bytes(8192)])
async def test_a_map_that_is_none_is_refused(folder: Path, damage: bytes) -> None:
    async with served(folder) as it, Client(it.path) as client:
        (gens,) = it.cache_set.gen_maps
        Path(gens.path).rename(folder / "elsewhere")
        Path(gens.path).write_bytes(damage)
        with pytest.raises((DeviceError, BadMagic)):
            await client.now()
        (folder / "elsewhere").rename(gens.path)
        assert (await client.now()).life


async def test_a_reader_takes_no_lease_and_cannot_write(folder: Path) -> None:
    async with served(folder, access=RoleForAll(Role.READER)) as it, Client(it.path) as client:
        assert not is_locked(it.cache_set.lease_path)
        with pytest.raises(PermissionDenied):
            await client.allocate(0, 0, 8)
        with pytest.raises(ConnectionLost):
            await client.write(Key(0, 0, 8, False, (Pointer(0, 8000, 0),)), bytes(4096))
        assert await client.now()


async def test_when_the_daemon_goes_all_is_void_and_the_lease_is_let_go(folder: Path) -> None:
    client = Client(str(folder / "s"))
    async with served(folder, image=True) as it:
        lease = it.cache_set.lease_path
        await client.__aenter__()
        since = await client.now()
        (key,) = await client.allocate(0, 0, 8)
    assert not client.is_connected
    with pytest.raises(ConnectionLost):
        await client.write(key, bytes(4096))
    with pytest.raises(ConnectionLost):
        await client.allocate(0, 0, 8)
    assert not await client.is_current(key, since)
    await asyncio.sleep(0)
    assert not Path(lease).exists() or not is_locked(lease)
    await client.__aexit__(None, None, None)


async def test_the_lease_outlives_the_connection_until_the_last_write_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, real = asyncio.Event(), os.pwritev
    loop = asyncio.get_running_loop()

    def slow_pwritev(*arguments: Any) -> int:
        asyncio.run_coroutine_threadsafe(may_write.wait(), loop).result()
        return real(*arguments)

    async with served(folder, image=True) as it, Client(it.path) as client:
        (key,) = await client.allocate(0, 0, 8)
        monkeypatch.setattr("bcached.client.data.data_paths.os.pwritev", slow_pwritev)
        writing = asyncio.create_task(client.write(key, bytes(4096)))
        await asyncio.sleep(0.02)
        writing.cancel()
        await asyncio.wait([writing])
        client._channel.abort()
        await until(lambda: not client.is_connected)
        await asyncio.sleep(0.02)
        assert is_locked(it.cache_set.lease_path)
        may_write.set()
        await until(lambda: not is_locked(it.cache_set.lease_path))


async def test_nobody_there_is_said_in_one_line(folder: Path) -> None:
    with pytest.raises(ConnectionLost, match="no connection to the daemon: "):
        async with Client(str(folder / "nothing")):
            pass


async def test_a_client_that_was_not_entered_says_what_makes_the_connection(folder: Path) -> None:
    async with served(folder) as it:
        client = Client(it.path)
        assert not client.is_connected
        for call in (client.status(), client.store(0, 0, bytes(4096)), client.fetch(0, 0, 8)):
            with pytest.raises(ConnectionLost, match="s: no connection to the daemon: it is made by `with`"):
                await call
        with pytest.raises(ConnectionLost):
            _ = client.description


async def test_a_daemon_that_is_full_says_so(folder: Path) -> None:
    async with served(folder, limits=SocketLimits(connections=1)) as it, Client(it.path):
        with pytest.raises((LimitExceeded, ConnectionLost), match="connections"):
            async with Client(it.path):
                pass


async def test_what_the_daemon_said_before_it_went_is_heard_first(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        channel = await Channel.open(str(folder / "s"))
        daemon, _ = listener.accept()
        refusal = LimitExceeded("connections", 6)
        daemon.send(encode_replies([Refusal(refusal.NAME, refusal.fields)]))
        daemon.close()
        with pytest.raises(LimitExceeded, match="6 exceeds the limit: connections"):
            await channel.ask(describe())
        await channel.lost
        with pytest.raises(ConnectionLost, match="closed by the daemon"):
            await channel.ask(describe())


async def test_one_that_is_no_daemon_is_noticed(folder: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\0")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(nonsense, str(folder / "s"))
    async with server:
        with pytest.raises(ConnectionLost, match="not varlink"):
            async with Client(str(folder / "s")):
                pass


def test_an_error_of_a_newer_daemon_is_still_an_error() -> None:
    error = refusal_from("io.bcached.Allocator.OutOfPatience", b'{"since": 7}')
    assert isinstance(error, RequestError)
    assert str(error) == "io.bcached.Allocator.OutOfPatience: {'since': 7}"
    error = refusal_from("io.bcached.Allocator.NoSuchVolume", b'{"inode": 1, "label": "new field"}')
    assert isinstance(error, RequestError)
    assert error.fields == {"inode": 1, "label": "new field"}
