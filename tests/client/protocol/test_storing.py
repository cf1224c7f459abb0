# SPDX-License-Identifier: GPL-2.0-only
"""Stores of any size, several at once, and what a commit holds."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.client import BlockingClient, Client, Piece
from bcached.client.protocol.storing import HEAD_BYTES, POINTER_BYTES, Part, _commits, atomic_bytes
from bcached.errors import InvalidParameter, LimitExceeded, NoSuchVolume
from bcached.keys import INODE_MAX, KEY_SECTORS_MAX, OFFSET_MAX, Key, Pointer
from bcached.wire.client_codec import Question, encode_question
from bcached.wire.messages import KEYS_IN_REPLY_MAX, REQUEST_BYTES_MAX, Commit, Description, Device, Lookup
from instruments.clients.served_set import BUCKET_SECTORS, served

MIB = 1 << 20


def pattern(size_bytes: int, seed: int = 1) -> bytes:
    """Every sector of it is another one."""
    return b"".join(b"%015d\n" % (seed * 1_000_000 + number) * 32 for number in range(size_bytes // 512))


async def contents(client: Client, offset: int, size_bytes: int) -> bytes:
    pieces = await client.fetch(0, offset, size_bytes // 512)
    return b"".join(piece.data for piece in pieces)


@pytest.mark.parametrize(("direct", "mebibytes"), [(True, 100), (False, 20)])
async def test_a_hundred_mebibytes_are_one_call(tmp_path: Path, direct: bool, mebibytes: int) -> None:
    async with (
        served(tmp_path, image=True, size_bytes=512 * MIB) as it,
        Client(it.path, direct=direct) as client,
    ):
        data = pattern(mebibytes * MIB)
        await client.store(0, 0, data)
        assert it.cache_set.statistics().reserved_sectors == 0
        assert await contents(client, 0, len(data)) == data


async def test_a_blocking_client_does_the_same(tmp_path: Path) -> None:
    async with served(tmp_path, image=True, size_bytes=256 * MIB) as it:

        def story() -> bool:
            with BlockingClient(it.path) as client:
                data = pattern(24 * MIB)
                client.store(0, 0, data)
                return b"".join(piece.data for piece in client.fetch(0, 0, len(data) // 512)) == data

        assert await asyncio.to_thread(story)


async def test_what_one_entry_does_not_hold_is_committed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        monkeypatch.setattr(client.description, "commit_words", 12)  # four keys, of which two may be in part
        assert client.atomic_bytes() == 2 * BUCKET_SECTORS * 512
        before = await client.flush()
        data = pattern(11 * BUCKET_SECTORS * 512)
        assert await client.store(0, 0, data) > before
        assert await contents(client, 0, len(data)) == data
        with pytest.raises(NoSuchVolume) as refused:
            await client.store(9, 0, data)
        assert not hasattr(refused.value, "__notes__")
        sectors = 3 * BUCKET_SECTORS
        inode = await client.create_volume("flash", sectors=sectors)
        with pytest.raises(InvalidParameter) as partly:
            await client.store(inode, 0, data)
        assert partly.value.__notes__ == [f"the first {2 * BUCKET_SECTORS * 512} bytes are stored"]
        assert sum(key.sectors for key in (await client.lookup(inode, 0, 1 << 20)).keys) == 2 * BUCKET_SECTORS
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_what_the_set_could_never_hold_is_refused_at_once(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        with pytest.raises(LimitExceeded, match="larger than the set"):
            await client.store(0, 0, bytes(200 * MIB))
        assert it.cache_set.statistics().allocated_sectors == 0


async def test_many_items_are_two_round_trips(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        items = [(0, 16 * number, pattern(4096, number)) for number in range(300)]
        sequence = await client.store_many(items)
        assert sequence > 0
        assert it.cache_set.statistics().reserved_sectors == 0
        ranges = [(0, 16 * number, 8) for number in range(300)] + [(0, 8, 8)]
        *found, none = await client.fetch_many(ranges)
        assert found == [(Piece(offset, data),) for _, offset, data in items]
        assert none == ()
        (both,) = await client.fetch_many([Lookup(0, 0, 24, touch=False)])
        assert both == (Piece(0, items[0][2]), Piece(16, items[1][2]))
        assert await client.fetch_many([]) == ()
        assert await client.store_many([]) >= sequence


async def test_more_ranges_and_keys_than_one_answer_holds_are_fetched(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store_many([(0, 16 * number, pattern(4096, number)) for number in range(1200)])
        found = await client.fetch_many([(0, 0, 16 * 1200), (0, 16, 8), *[(0, 8, 8)] * 1500, (0, 32, 8)])
        assert [len(pieces) for pieces in found] == [1200, 1, *[0] * 1500, 1]
        assert found[0][1199] == Piece(16 * 1199, pattern(4096, 1199))
        assert found[-1] == (Piece(32, pattern(4096, 2)),)


async def test_of_items_that_overlap_the_last_one_counts(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        first, second = pattern(8192, 1), pattern(8192, 2)
        await client.store_many([(0, 0, first), (0, 8, second)])
        assert await contents(client, 0, 12288) == first[:4096] + second


async def test_of_many_items_none_is_stored_if_one_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        with pytest.raises(NoSuchVolume):
            await client.store_many([(0, 0, bytes(4096)), (7, 0, bytes(4096))])
        with pytest.raises(ValueError, match="blocks have 4096 bytes"):
            await client.store_many([(0, 0, bytes(4096)), (0, 8, b"x")])
        assert (await client.lookup(0, 0, 1024)).keys == ()
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_every_copy_of_a_long_item_is_written(tmp_path: Path) -> None:
    async with served(tmp_path, image=True, members=2) as it, Client(it.path) as client:
        data = pattern(3 * BUCKET_SECTORS * 512)
        await client.store_many([(0, 0, data), (0, 8000, data)], replicas=2)
        for device in (0, 1):
            keys = (await client.lookup(0, 8000, 3 * BUCKET_SECTORS)).keys
            copies = [[one for one in key.pointers if one.device == device] for key in keys]
            found = [
                await client.read(Key(0, 0, k.sectors, False, tuple(c)))
                for k, c in zip(keys, copies, strict=True)
            ]
            assert b"".join(found) == data


# What goes together


def description(words: int, bucket_sectors: int) -> Description:
    device = Device(0, "x", "u", bucket_sectors, 8, 1000, 1, "x")
    return Description("set", (device,), "lease", words, "0", "admin")


@given(
    st.lists(st.integers(1, 1500), max_size=12),
    st.integers(9, 4000),
    st.sampled_from([8, 128, 1024]),
    st.integers(1, 6),
)
def test_no_commit_and_no_allocation_is_asked_to_hold_too_much(
    blocks: list[int], words: int, bucket_sectors: int, replicas: int
) -> None:
    it = description(max(words, 3 * (2 + replicas)), bucket_sectors)
    parts = [
        Part(0, 10**6 * number, memoryview(bytes(count * 512 * 8))) for number, count in enumerate(blocks)
    ]
    stored: list[tuple[int, int]] = []
    for commit in _commits(it, parts, replicas):
        keys_in_commit = 0
        for allocation in commit:
            keys = sum(part.data.nbytes // (bucket_sectors * 512) + 2 for part in allocation)
            assert keys <= KEYS_IN_REPLY_MAX
            assert len(allocation) <= 1000
            keys_in_commit += keys
            stored += [(part.offset, part.data.nbytes) for part in allocation]
        pieces = sum(len(allocation) for allocation in commit)
        # Where an item is divided among allocations, what adds up is less than what each might take.
        assert (keys_in_commit - 2 * pieces) * (2 + replicas) <= it.commit_words
    for part in parts:
        inside = [(at, size) for at, size in stored if part.offset <= at < part.offset + 10**6]
        ends = [part.offset] + [at + size // 512 for at, size in inside]
        assert [at for at, _ in inside] == ends[:-1]
        assert ends[-1] == part.offset + part.data.nbytes // 512
        if part.data.nbytes <= atomic_bytes(it, replicas) and part.data.nbytes <= 1022 * bucket_sectors * 512:
            assert len(inside) == 1


def test_the_longest_keys_are_no_longer_than_assumed() -> None:
    pointer = Pointer((1 << 12) - 1, (1 << 43) - 1, 255)
    key = Key(INODE_MAX, OFFSET_MAX, KEY_SECTORS_MAX, False, (pointer,) * 6)
    counts = REQUEST_BYTES_MAX // (HEAD_BYTES + 6 * POINTER_BYTES)
    message = encode_question(
        Question("io.bcached.Allocator.Commit", Commit((key,) * counts, False, 300_000))
    )
    assert len(message) <= REQUEST_BYTES_MAX
