# SPDX-License-Identifier: GPL-2.0-only
"""Devices that are not the ones meant: a disk whose partition has the set, another set's backing device."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.device.signatures import find_signatures
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.image_builder import ImageBuilder
from instruments.samples.kernel_images import image_bytes

FAILED, ERRORS_LEFT, OPERATIONAL = 1, 4, 8
SECTOR, FIRST = 512, 2048
LINUX = 0x83
WARNED = "disk.img has a partition table (dos): if bcache is on a partition, name that (lsblk)"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing.img"
    path.write_bytes(backing_bytes("crash"))
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with one partition, which has the cache."""
    path, cache = tmp_path / "disk.img", image_bytes("crash")
    entry = bytes([0, 0, 0, 0, LINUX, 0, 0, 0]) + b"".join(
        number.to_bytes(4, "little") for number in (FIRST, len(cache) // SECTOR)
    )
    path.write_bytes(bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa" + bytes((FIRST - 1) * SECTOR) + cache)
    return path


def has_library(path: Path) -> bool:
    try:
        return [signature.name for signature in find_signatures(str(path))] == ["dos"]
    except OSError:
        return False


def test_a_disk_with_partitions_is_called_that_and_gets_no_superblock(disk: Path, backing: Path) -> None:
    if not has_library(disk):
        pytest.skip("libblkid is not installed")
    before = disk.read_bytes()
    for command in (
        ["check", disk, "--backing", backing],
        ["show", disk],
        ["rescue", "-n", disk, "--backing", backing],
    ):
        told = run(*command)
        assert (told.exit_code in {FAILED, ERRORS_LEFT}, WARNED in told.stderr) == (True, True), command
    checked = run("check", disk, "--backing", backing)
    assert "next: bcachectl rescue -n " in checked.stdout
    assert "next: bcachectl repair" not in checked.stdout
    refused = run("repair", "--yes", "--superblock", "--backing", backing, disk)
    assert (refused.exit_code, "name the partition that has one" in refused.stderr) == (OPERATIONAL, True)
    assert disk.read_bytes() == before


def test_a_backing_device_of_another_set_is_not_offered(tmp_path: Path) -> None:
    cache, other = tmp_path / "cache.img", tmp_path / "other.img"
    cache.write_bytes(image_bytes("crash"))
    other.write_bytes(backing_bytes("clean"))
    checked = run("check", cache, "--backing", other)
    assert "it is attached to another set, 5a29d19a-9de3-4284-8a75-6bb66a58a585" in checked.stdout
    assert checked.stdout.splitlines()[-1] == f"next: bcachectl rescue -n {cache} --backing DEV"
    refused = run("rescue", "--yes", cache, "--backing", other)
    assert (refused.exit_code, other.read_bytes()) == (FAILED, backing_bytes("clean"))
    assert refused.stderr.endswith(": is it the right device?\n")
    assert "--volume" not in refused.stderr


def test_a_volume_without_dirty_data_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    cache = tmp_path / "cache.img"
    cache.write_bytes(image_bytes("crash"))
    refused = run("rescue", "-n", cache, "--volume", 4, "--to", tmp_path / "volume.img")
    assert refused.stderr == "bcachectl: volume 4 has no dirty data; volumes that have some: 0\n"


def test_no_dirty_data_beside_a_lost_index_is_not_told_as_none(tmp_path: Path) -> None:
    builder = ImageBuilder(members=2)
    builder.volumes[1] = None
    builder.finish(builder.node([builder.extent(0, 0, 8, dirty=True, member=1)]))
    _, second = builder.files(tmp_path)
    refused = run("rescue", "-n", second, "--volume", 0, "--to", tmp_path / "volume.img")
    assert refused.exit_code == FAILED
    assert "no dirty data was found, but parts of the index are lost (set at " in refused.stderr
