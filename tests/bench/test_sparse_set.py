# SPDX-License-Identifier: GPL-2.0-only
"""The set that the check's benchmark reads is a sound one, as large as was said."""

from pathlib import Path

from bcached.device import FileDevice
from bcached.store.check.checker import check_set
from bench.sparse_set import SparseSet


async def test_a_sparse_set_is_sound_and_has_the_keys_asked_for(tmp_path: Path) -> None:
    image = tmp_path / "cache.img"
    SparseSet(image, 4096, 9_000).write()
    device = await FileDevice.open(str(image), writable=False, exclusive=False)
    checked = await check_set([device])
    await device.close()
    assert checked.findings.listed == []
    assert checked.totals.live_keys == 9_000
    assert checked.totals.dirty_sectors > 0
    assert checked.totals.clean_sectors > 0
    assert image.stat().st_blocks * 512 < image.stat().st_size / 16
