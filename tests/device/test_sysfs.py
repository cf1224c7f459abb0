# SPDX-License-Identifier: GPL-2.0-only
"""Sysfs describes disks, partitions, and loop devices while they have a file."""

import os
from pathlib import Path

import pytest

from bcached.device import sysfs
from instruments.devices.loop_device import loop_device


def test_a_device_is_found_by_its_number() -> None:
    numbers = sorted(path.name for path in Path("/sys/dev/block").iterdir())
    assert numbers, "a machine without any block device"
    for number in numbers:
        major, minor = map(int, number.split(":"))
        device = os.makedev(major, minor)
        assert sysfs.first_line(f"{sysfs.directory(device)}/dev") == number
        block_bytes = sysfs.attribute(device, "queue/logical_block_size")
        assert block_bytes is not None
        assert int(block_bytes) >= 512


def test_a_partition_has_the_attributes_of_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "part1").mkdir(parents=True)
    (tmp_path / "disk" / "queue").mkdir()
    (tmp_path / "disk" / "queue" / "logical_block_size").write_text("4096\n")
    monkeypatch.setattr(sysfs, "directory", lambda _number: str(tmp_path / "disk" / "part1"))
    assert sysfs.attribute(0, "queue/logical_block_size") == "4096"
    assert sysfs.attribute(0, "loop/backing_file") is None


@pytest.mark.root
def test_a_loop_device_names_its_file(tmp_path: Path) -> None:
    image = tmp_path / "an image"
    image.write_bytes(bytes(4096))
    with loop_device(image) as path:
        assert sysfs.attribute(os.stat(path).st_rdev, "loop/backing_file") == str(image)
