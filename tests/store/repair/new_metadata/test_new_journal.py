# SPDX-License-Identifier: GPL-2.0-only
"""A journal that has all its entries and no space for another one: refused, and written new by a repair."""

import pytest

from bcached.errors import SetRefused
from bcached.store.check.checker import check_set
from bcached.store.reading.set_reader import read_set
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from instruments.samples.image_builder import ImageBuilder, two_levels


def full() -> ImageBuilder:
    """Each block of the journal has an entry that is needed."""
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    builder.finish(root, 1)
    buckets = builder.superblocks[0].journal_buckets
    seq = 1
    for bucket in [*buckets[1:], buckets[0]]:
        byte = builder.geometry.byte_of(bucket)
        end = byte + builder.geometry.bucket_bytes
        while byte < end:
            byte = builder.write_entry(builder.entry(seq), byte)
            seq += 1
    return builder


async def test_a_full_journal_is_refused_with_the_repair_that_keeps_everything() -> None:
    devices = full().devices()
    with pytest.raises(SetRefused, match=r"no bucket is free for another entry.* repair -n --drop-damaged"):
        await read_set(devices)
    before = await check_set(devices)
    assert [finding.rule for finding in before.findings.listed] == ["journal-full"]
    repair = await plan_repair(devices, Wishes(frozenset({StepOption.DROP_DAMAGED})))
    (step,) = repair.steps
    assert (repair.obstacle, step.gives_up) == ("", [])
    assert repair.found.findings.listed == []
    assert repair.found.totals.dirty_sectors == before.totals.dirty_sectors > 0
