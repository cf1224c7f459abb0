# SPDX-License-Identifier: GPL-2.0-only
"""An index written from its keys alone: the same keys are read from it, in no more nodes than announced."""

import pytest

from bcached.keys import Key, Pointer
from bcached.state.index.node_shape import NodeShape
from bcached.store.check.checker import check_set
from bcached.store.membership import MemberFound
from bcached.store.resize.tree_writer import TreeWriter, nodes_needed
from instruments.samples.image_builder import ImageBuilder


@pytest.mark.parametrize("count", [0, 1, 111, 112, 113, 700, 14_000])
async def test_the_keys_are_read_from_as_many_nodes_as_announced(count: int) -> None:
    builder = ImageBuilder(bucket_count=1200, bucket_sectors=8, block_sectors=1)
    (device,) = builder.devices()
    shape = NodeShape(8, 512, 8)

    def take() -> tuple[int, int]:
        return builder.bucket(), 0

    data = builder.geometry.sector_of(builder.bucket())
    writer = TreeWriter(MemberFound(device, builder.superblocks[0]), shape, take)
    keys = [Key(0, 3 * n, 1 + n % 3, True, (Pointer(0, data + n % 6, 0),)) for n in range(count)]
    for key in keys:
        await writer.add(key)
    root, level = await writer.finish()
    assert writer.nodes <= nodes_needed(shape, 3 * count) <= writer.nodes * 1.1 + 3
    builder.images[0][:] = device.image()
    checked = await check_set(builder.finish(root, level).devices())
    assert set(checked.findings.counts) <= {"key-overlap", "bucket-crowded"}  # all have the same few sectors
    assert checked.tree is not None
    assert [key for rows in checked.tree.rows.chunks() for key in rows] == keys
    assert sum(checked.tree.nodes_by_level.values()) == writer.nodes
