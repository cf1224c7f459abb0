# SPDX-License-Identifier: GPL-2.0-only
"""The index of a set that is opened: its nodes, and the keys of the journal merged with them."""

from collections.abc import Sequence

import pytest

from bcached.errors import BadField
from bcached.keys import Key, Pointer
from bcached.state.buckets.bucket_table import State
from bcached.store.opening import index_recovery
from bcached.store.opening.index_recovery import place_metadata
from bcached.store.opening.recovery import OpenedSet, recover
from bcached.store.reading.set_reader import read_set
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.used_set import fresh_devices, make_buckets, open_set

BUCKET_SECTORS = 8
BUCKET, OTHER = 300, 301


def data(start: int, size: int, bucket: int, gen: int, *, dirty: bool = True) -> Key:
    return Key(0, start, size, dirty, (Pointer(0, bucket * BUCKET_SECTORS, gen),))


async def a_set_with(*entries: Sequence[Key]) -> list[MemoryDevice]:
    """Devices whose journal has these keys, each row in an entry of its own."""
    devices = await fresh_devices(530)
    opened = await open_set(devices)
    for keys in entries:
        seq = opened.journal.append(keys)
        for key in keys:
            opened.index.tree.insert(key, seq)
        await opened.journal.commit()
    return devices


def all_keys(opened: OpenedSet) -> object:
    return opened.index.tree.lookup(0, 0, 1000)


async def test_the_newest_of_the_journals_keys_wins() -> None:
    old, new = data(0, 8, BUCKET, 0), data(4, 2, OTHER, 0)
    opened = await open_set(await a_set_with([old], [new]))
    rest = Key(0, 6, 2, True, (Pointer(0, BUCKET * BUCKET_SECTORS + 6, 0),))
    assert all_keys(opened) == [data(0, 4, BUCKET, 0), new, rest]
    assert opened.index.keys_replayed == 2
    table = opened.members[0].buckets.table
    assert (table.sectors[BUCKET], table.sectors[OTHER]) == (6, 2)


async def test_what_was_replayed_stays_needed() -> None:
    opened = await open_set(await a_set_with([data(0, 8, BUCKET, 0)], [data(8, 4, OTHER, 0)]))
    leaves = opened.index.tree.leaves
    assert leaves.pins.oldest == opened.journal.seq - 1
    assert not any(leaf.is_clean for leaf in leaves)


async def test_a_stale_key_cuts_what_it_overlaps_and_is_not_counted() -> None:
    live, stale = data(0, 8, BUCKET, 1), data(2, 2, OTHER, 0)
    raising = data(20, 2, OTHER, 1)
    opened = await open_set(await a_set_with([live], [stale], [raising]))
    table = opened.members[0].buckets.table
    assert table.gens[OTHER] == 1
    assert (table.sectors[BUCKET], table.sectors[OTHER]) == (6, 2)
    assert opened.index.health.tally.stale_dirty_keys == 1


async def test_a_deletion_deletes_and_is_no_key() -> None:
    opened = await open_set(await a_set_with([data(0, 8, BUCKET, 0)], [Key(0, 0, 8, False, ())]))
    assert all_keys(opened) == []
    assert opened.members[0].buckets.table.sectors[BUCKET] == 0


async def test_a_bucket_that_is_used_already_holds_no_node() -> None:
    opened = await open_set(await a_set_with())
    with pytest.raises(BadField, match="a bucket of its own for BTREE"):
        place_metadata(opened.members, opened.index.tree.root.key, State.BTREE)


async def test_progress_is_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_recovery, "KEYS_A_REPORT", 2)
    monkeypatch.setattr(index_recovery, "LEAVES_A_REPORT", 1)
    devices = await a_set_with([data(8 * number, 4, BUCKET + number, 0) for number in range(5)])
    said: list[str] = []
    await recover(await read_set(devices), make_buckets, lambda: 0.0, progress=said.append)
    assert said == [
        "recovering: 1 leaves of the index read",
        "recovering: 2 keys of the journal replayed",
        "recovering: 4 keys of the journal replayed",
    ]
