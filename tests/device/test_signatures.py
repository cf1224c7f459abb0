# SPDX-License-Identifier: GPL-2.0-only
"""What libblkid finds. The images are made by hand or by the usual tools."""

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest

from bcached.device import signatures
from bcached.device.signatures import Signature, find_signatures
from bcached.errors import DeviceError, DeviceRefused
from instruments.samples.format_samples import SUPERBLOCK

TOOLS = "/usr/sbin:/sbin:/usr/bin:/bin"
HAS_LIBRARY = ctypes.util.find_library("blkid") is not None
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="libblkid is not installed")
needs_program = pytest.mark.skipif(shutil.which("blkid", path=TOOLS) is None, reason="blkid is not installed")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    return path


def put(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def run(*command: str) -> None:
    program = shutil.which(command[0], path=TOOLS)
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run([program, *command[1:]], check=True, capture_output=True)


@needs_library
def test_an_empty_image_has_none(image: Path) -> None:
    assert find_signatures(str(image)) == ()


@needs_library
def test_bcache_is_found_by_its_magic(image: Path) -> None:
    put(image, 4096, SUPERBLOCK.pack())
    assert find_signatures(str(image)) == (Signature("bcache", 4096 + 24, 16),)


@needs_library
def test_a_partition_table_is_found(image: Path) -> None:
    entry = bytes.fromhex("00000000830000000008000000100000")  # one partition of Linux, from sector 2048
    put(image, 446, entry + bytes(48) + b"\x55\xaa")
    assert find_signatures(str(image)) == (Signature("dos", 510, 2),)


@needs_library
def test_a_file_system_is_found_where_its_magic_is(image: Path) -> None:
    run("mke2fs", "-q", "-t", "ext4", str(image))
    assert find_signatures(str(image)) == (Signature("ext4", 1080, 2),)
    assert str(Signature("ext4", 1080, 2)) == "ext4 at byte 1080"


@needs_library
def test_several_things_at_once_are_all_found(image: Path) -> None:
    run("mkswap", str(image))
    put(image, 4096, SUPERBLOCK.pack())
    assert {signature.name for signature in find_signatures(str(image))} == {"swap", "bcache"}


@needs_library
def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot look for signatures: No such file or directory"):
        find_signatures(str(tmp_path / "missing"))


@needs_program
def test_without_the_library_the_program_is_asked(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "LIBRARY", "libblkid-of-another-machine.so")
    assert find_signatures(str(image)) == ()
    put(image, 4096, SUPERBLOCK.pack())
    assert find_signatures(str(image)) == (Signature("bcache"),)
    with pytest.raises(DeviceError, match="cannot look for signatures"):
        find_signatures(f"{image}-missing")


@needs_program
def test_what_the_program_cannot_decide_counts_as_something(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "LIBRARY", "libblkid-of-another-machine.so")
    run("mkswap", str(image))
    put(image, 4096, SUPERBLOCK.pack())
    assert [str(signature) for signature in find_signatures(str(image))] == ["several signatures at once"]


def test_with_neither_the_device_is_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "LIBRARY", "libblkid-of-another-machine.so")
    monkeypatch.setattr(signatures, "PROGRAM", "blkid-of-another-machine")
    with pytest.raises(DeviceRefused, match="cannot look for signatures: neither"):
        find_signatures(str(image))
