# SPDX-License-Identifier: GPL-2.0-only
"""Sets with blocks larger than 4 KiB, of kernels with larger pages: read offline, and left as they are."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.errors import GeometryRefused
from bcached.store.reading.set_reader import read_set
from instruments.samples.image_builder import SET_UUID, ImageBuilder
from instruments.time.virtual_time import run_in_virtual_time

SECTOR, EXTENTS, ENTRIES = 512, 20, 12


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def a_set(block: int) -> ImageBuilder:
    """Dirty extents of one block, in two bsets, and in the journal."""
    builder = ImageBuilder(bucket_sectors=1024, bucket_count=560, block_sectors=block)
    keys = [builder.extent(0, 2 * block * number, block, dirty=True) for number in range(EXTENTS + ENTRIES)]
    for number, key in enumerate(keys):
        builder.write(builder.byte_of(key), bytes([number + 1]) * block * SECTOR)
    root = builder.node(keys[:10], keys[10:EXTENTS])
    return builder.finish(root, 0, [[key] for key in keys[EXTENTS:]])


@pytest.mark.parametrize("block", [16, 32, 128])
def test_all_of_it_is_read(block: int, tmp_path: Path) -> None:
    (path,) = a_set(block).files(tmp_path)
    before, image = Path(path).read_bytes(), tmp_path / "volume.img"
    done = run("--json", "rescue", "--yes", path, "--volume", 0, "--to", image)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["sure"]["sectors"] == (EXTENTS + ENTRIES) * block
    raw = image.read_bytes()
    assert list(raw[:: 2 * block * SECTOR]) == list(range(1, EXTENTS + ENTRIES + 1))
    assert len(run("dump", "--only", "key", path).stdout.splitlines()) == EXTENTS + ENTRIES
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("block", [16, 128])
def test_no_sound_superblock_is_called_damaged_or_written_again(block: int, tmp_path: Path) -> None:
    builder = a_set(block)
    (path,) = builder.files(tmp_path)
    before = Path(path).read_bytes()
    checked = json.loads(run("--json", "check", path).stdout)
    assert [one["rule"] for one in checked["findings"]] == ["geometry"]
    assert checked["next"] == []
    run("repair", "--yes", "--superblock", path)
    refused = run("repair", "--yes", "--rebuild-prios", path)
    assert (refused.exit_code, "bcached writes no metadata of such a set" in refused.stderr) == (8, True)
    assert Path(path).read_bytes()[: 1 << 20] == before[: 1 << 20]
    with pytest.raises(GeometryRefused, match="larger than a page of 4k"):
        run_in_virtual_time(read_set(builder.devices()))


def test_a_superblock_that_is_gone_is_found_by_the_journal(tmp_path: Path) -> None:
    builder = a_set(32)
    builder.write(0, bytes(16 << 10))
    (path,) = builder.files(tmp_path)
    shown = json.loads(run("--json", "show", path).stdout)
    assert "--geometry 512k,16k" in shown["next"][0]
    image = tmp_path / "volume.img"
    options = ("--geometry", "512k,16k", "--set-uuid", SET_UUID)
    done = run("--json", "rescue", "--yes", path, "--volume", 0, "--to", image, *options)
    assert json.loads(done.stdout)["sure"]["sectors"] == (EXTENTS + ENTRIES) * 32, done.stderr
