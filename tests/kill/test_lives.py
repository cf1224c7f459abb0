# SPDX-License-Identifier: GPL-2.0-only
"""A few lives and power cuts; `make kill-test` has a thousand."""

from random import Random

import pytest

from .lives import End, run_lives
from .power import run_cuts
from .recorder import Logged, cuts, why_not

PATIENCE_S = 10.0
ENDS = [
    End("call", PATIENCE_S, "", "amid", 30),
    End("call", PATIENCE_S, "", "before", 5),
    End("load", 0.1),
    End("start", 0.03),
    End("call", PATIENCE_S, "", "after", 70),
    End("stop", 0.1),
    End("load", 0.02),
]


@pytest.mark.parametrize("members", [1, 2])
async def test_nothing_is_lost_however_the_daemon_is_killed(members: int) -> None:
    lives = await run_lives(len(ENDS), 1, members=members, ends=ENDS)
    assert sum(lives.ends.values()) == len(ENDS)
    assert lives.ends["killed at a call"] == 3
    assert lives.recovered >= 4
    assert lives.sectors_found > 0


@pytest.mark.root
async def test_nothing_is_lost_however_the_power_goes() -> None:
    if (missing := why_not()) is not None:
        pytest.skip(f"no power is cut: {missing}")
    result = await run_cuts(6, 1, a_session=3)
    assert result.cuts == 6
    assert result.undecided > 0


def test_a_cut_undoes_only_what_no_flush_made_durable() -> None:
    old, new = bytes(512), bytes([1]) * 512
    entries = [
        Logged(0, 512, new, False, 1024),
        Logged(0, 0, b"", True, 1536),
        Logged(512, 512, new, False, 2560),
        Logged(1024, 512, new, False, 3584),
    ]
    found = {
        (cut.position, cut.image[:512], cut.image[512:1024])
        for seed in range(60)
        for cut in cuts(bytes(2048), entries, 3, Random(seed))
    }
    assert {image for position, image, _ in found if position >= 1536} == {new}
    assert {second for position, _, second in found if position == 2560} == {old, new}
