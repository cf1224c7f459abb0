"""What is refused for what sysfs says; where no kernel has bcache, its sysfs is laid out by the test."""

import os
from pathlib import Path

import pytest

from bcached.device import occupancy, sysfs
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
    assert occupancy.holder_of(os.makedev(7, 255)).startswith("another process")
    (tmp_path / "holders" / "md0").mkdir(parents=True)
    (tmp_path / "holders" / "dm-1").mkdir()
    assert occupancy.holder_of(os.makedev(7, 255)) == "held by dm-1, md0"


@pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="/proc/locks cannot be read")
def test_who_has_locked_a_device_is_named_and_seen_without_touching_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(512))
    assert occupancy.user_of(str(path)) is None
    descriptor = os.open(path, os.O_RDWR)
    try:
        occupancy.lock(str(path), descriptor)
        assert occupancy.user_of(str(path)) == f"process {os.getpid()}"
        with (
            path.open("rb") as another,
            pytest.raises(DeviceRefused, match=f"in use: process {os.getpid()} has locked it"),
        ):
            occupancy.lock(str(path), another.fileno())
    finally:
        os.close(descriptor)
    assert occupancy.user_of(str(path)) is None
    assert occupancy.user_of(str(tmp_path / "missing")) is None
