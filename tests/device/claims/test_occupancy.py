# SPDX-License-Identifier: GPL-2.0-only
"""What is refused for what sysfs says; where no kernel has bcache, its sysfs is laid out by the test."""

import os
from pathlib import Path

import pytest

from bcached.device import sysfs
from bcached.device.claims import occupancy
from bcached.errors import DeviceRefused


def test_a_device_that_the_kernels_bcache_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysfs, "directory", lambda _number: str(tmp_path))
    occupancy.refuse_held_by_bcache("/dev/sdz", os.makedev(7, 0))
    (tmp_path / "bcache").mkdir()
    with pytest.raises(DeviceRefused, match="/dev/sdz: in use: the kernel's bcache holds it"):
        occupancy.refuse_held_by_bcache("/dev/sdz", os.makedev(7, 0))


def test_what_the_kernel_put_on_top_of_a_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysfs, "directory", lambda _number: str(tmp_path))
    assert occupancy.kernel_use_of(os.makedev(7, 255)) is None
    (tmp_path / "holders" / "md0").mkdir(parents=True)
    (tmp_path / "holders" / "dm-1").mkdir()
    assert occupancy.kernel_use_of(os.makedev(7, 255)) == "held by dm-1, md0"
