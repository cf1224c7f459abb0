# SPDX-License-Identifier: GPL-2.0-only
"""The keys that stay: live ones, with the pointers that are in front of the end."""

from bcached.keys import Key
from bcached.store.check.checker import check_set
from bcached.store.resize.kept_keys import FittingKeys
from instruments.samples.image_builder import ImageBuilder


async def test_of_several_copies_those_in_front_of_the_end_stay() -> None:
    builder = ImageBuilder(members=2)
    first, second = builder.extent(0, 0, 8, dirty=True), builder.extent(0, 0, 8, dirty=True, member=1)
    both = Key(0, 0, 8, True, first.pointers + second.pointers)
    alone, stale = builder.extent(0, 8, 8), builder.extent(0, 16, 8, gen=0)
    builder.gens[0][stale.pointers[0].sector // 64] = 1
    builder.finish(builder.node([both, alone, stale]))
    checked = await check_set(builder.devices())
    end = alone.pointers[0].sector // 64
    assert list(FittingKeys(checked, 0, end + 1)) == [both, alone]
    assert list(FittingKeys(checked, 0, end)) == [both]
    kept = FittingKeys(checked, 0, first.pointers[0].sector // 64)
    assert list(kept) == [Key(0, 0, 8, True, second.pointers)]
    assert (kept.words(), FittingKeys(checked, 0, end).words()) == (3, 4)
