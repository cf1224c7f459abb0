# SPDX-License-Identifier: GPL-2.0-only
"""The areas of a member that count."""

from bcached.store.check.checker import check_set
from bcached.store.clone.live_areas import live_areas
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.used_set import fresh_devices

BUCKET = 64


async def test_metadata_counts_in_buckets_and_data_in_blocks() -> None:
    builder = ImageBuilder()
    odd = builder.extent(0, 5003, 3)
    root, leaves = two_levels(builder)
    builder.finish(root, 1, [[odd]])
    areas = live_areas(await check_set(builder.devices()), 0)
    held = {
        sector for byte, length in areas.pieces() for sector in range(byte // 512, (byte + length) // 512)
    }
    assert len(held) == areas.sectors
    for key in (root, *leaves, builder.uuid_key):
        bucket = key.pointers[0].sector // BUCKET
        assert set(range(bucket * BUCKET, (bucket + 1) * BUCKET)) <= held
    first = odd.pointers[0].sector
    assert {sector for sector in held if first <= sector < first + BUCKET} == set(range(first, first + 8))
    metadata = 5 + 2 + len(builder.superblocks[0].journal_buckets) - 1
    assert areas.sectors == metadata * BUCKET + 31 * 8


async def test_a_stale_key_has_no_data() -> None:
    builder = ImageBuilder()
    stale = builder.extent(0, 5000, 8)
    builder.gens[0][stale.pointers[0].sector // BUCKET] = 1
    builder.finish(builder.node([stale]))
    areas = live_areas(await check_set(builder.devices()), 0)
    assert not areas.sectors % BUCKET


async def test_of_a_fresh_set_only_its_future_journal_counts() -> None:
    devices = await fresh_devices(530)
    areas = live_areas(await check_set(devices), 0)
    assert list(areas.pieces()) == [(3 * 4096, 4 * 4096)]
