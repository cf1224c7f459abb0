# SPDX-License-Identifier: GPL-2.0-only
import os
import resource
from pathlib import Path

import pytest

from bcached.device.image_file import create_image
from bcached.errors import DeviceError, DeviceRefused
from instruments.clients.stranger import stranger
from instruments.devices.loop_device import loop_device


def test_an_image_is_sparse_of_the_given_size_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "image"
    create_image(str(path), 1 << 30)
    found = path.stat()
    assert found.st_size == 1 << 30
    assert found.st_blocks == 0
    assert found.st_mode & 0o777 == 0o600


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"precious")
    with pytest.raises(DeviceRefused, match="exists already"):
        create_image(str(path), 4096)
    assert path.read_bytes() == b"precious"


def test_what_exists_is_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old" * 1000)
    create_image(str(path), 4096, replace=True)
    assert path.read_bytes() == bytes(4096)


def test_an_image_in_use_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"in use")
    ours = os.geteuid()
    with (
        stranger(path, "LOCK_SH", user=ours),
        pytest.raises(DeviceRefused, match=r"in use: process \d+ \(stray, user .*\) has locked it"),
    ):
        create_image(str(path), 4096, replace=True)
    assert path.read_bytes() == b"in use"


@pytest.mark.root
def test_an_image_under_a_loop_device_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "image"
    create_image(str(path), 1 << 20)
    with loop_device(path), pytest.raises(DeviceRefused, match="in use through /dev/loop"):
        create_image(str(path), 4096, replace=True)
    assert path.stat().st_size == 1 << 20


def test_links_and_other_things_are_not_followed(tmp_path: Path) -> None:
    target, link, fifo = tmp_path / "target", tmp_path / "link", tmp_path / "fifo"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    os.mkfifo(fifo)
    with pytest.raises(DeviceError, match="cannot create it"):
        create_image(str(link), 4096, replace=True)
    with pytest.raises(DeviceRefused, match="expected a regular file or no file, found a file of"):
        create_image(str(fifo), 4096, replace=True)
    with pytest.raises(DeviceError, match="cannot create it: Is a directory"):
        create_image(str(tmp_path), 4096, replace=True)
    with pytest.raises(DeviceError, match="cannot create it: No such file or directory"):
        create_image(str(tmp_path / "nowhere" / "image"), 4096)
    assert target.read_bytes() == b"precious"


def test_an_image_that_may_not_be_so_long_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "image"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(DeviceError, match="cannot make it 2097152 bytes long: File too large"):
            create_image(str(path), 2 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
