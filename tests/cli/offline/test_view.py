# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl view`: what a client of the export reads is what the kernel read, and nothing is written."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bcached.cli.main import bcachectl
from instruments.samples.damaged_kernel_image import backing_bytes, erase, structures, wrong_sectors
from instruments.samples.kernel_images import image_bytes

BIN = Path(sys.executable).parent
DATA_AT = 8192  # of the backing device


def has_python_plugin() -> bool:
    nbdkit = shutil.which("nbdkit")
    return (
        nbdkit is not None
        and subprocess.run([nbdkit, "--dump-plugin", "python"], capture_output=True).returncode == 0
    )


needs_nbdkit = pytest.mark.skipif(
    not has_python_plugin() or shutil.which("qemu-io") is None,
    reason="nbdkit, nbdkit-plugin-python or qemu-utils is not installed",
)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    cache, backing = tmp_path / "cache.img", tmp_path / "backing.img"
    cache.write_bytes(image_bytes("crash"))
    backing.write_bytes(backing_bytes("crash"))
    return cache, backing


@contextmanager
def viewed(*arguments: object, end: int = signal.SIGINT) -> Iterator[str]:
    """The URI of an export, for as long as the block lasts."""
    command: list[str | Path] = [BIN / "bcachectl", "--json", "view", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = program.stdout.readline()
            assert line, "it ended"
            text += line
        try:
            yield str(json.loads(text)["uri"])
        finally:
            program.send_signal(end)
            assert program.wait() == 0


def contents(uri: str, folder: Path) -> bytes:
    copy = folder / "copy.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy], check=True)
    return copy.read_bytes()


@needs_nbdkit
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_client_reads_what_the_kernel_read(paths: tuple[Path, Path], tmp_path: Path, end: int) -> None:
    cache, backing = paths
    with viewed(cache, "--backing", backing, end=end) as uri:
        seen = contents(uri, tmp_path)
        assert subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write 0 4k", uri], capture_output=True
        ).returncode
    assert len(seen) == len(backing_bytes("crash")) - DATA_AT
    assert wrong_sectors("crash", bytes(DATA_AT) + seen) == set()
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


@needs_nbdkit
def test_with_cow_a_client_may_write_and_no_device_is_written(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    cache, backing = paths
    with viewed("--cow", cache, "--backing", backing) as uri:
        subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write -P 7 0 4k", uri], check=True, capture_output=True
        )
        assert contents(uri, tmp_path)[:4096] == bytes([7]) * 4096
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


@needs_nbdkit
def test_a_flash_only_volume_is_seen_by_its_number_at_the_socket_that_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "cache.img"
    cache.write_bytes(image_bytes("flash"))
    socket = tmp_path / "socket"
    with viewed(cache, "--volume", 0, "--socket", socket) as uri:
        assert str(socket) in uri
        seen = contents(uri, tmp_path)
    assert len(seen) == 16 << 20
    assert wrong_sectors("flash", seen) == set()


@needs_nbdkit
async def test_what_is_not_sure_is_shown_when_asked_for(paths: tuple[Path, Path], tmp_path: Path) -> None:
    cache, backing = paths
    checked, _ = await structures("crash")
    ((prio, _),) = checked.chains[0]
    raw = bytearray(cache.read_bytes())
    erase(prio << 16, 1 << 16)(raw)
    cache.write_bytes(raw)
    with viewed(cache, "--backing", backing) as uri:
        assert 0 < len(wrong_sectors("crash", bytes(DATA_AT) + contents(uri, tmp_path))) < 2000
    with viewed(cache, "--backing", backing, "--confidence", "newest") as uri:
        assert wrong_sectors("crash", bytes(DATA_AT) + contents(uri, tmp_path)) == set()


def test_it_wants_to_know_whose_data(paths: tuple[Path, Path]) -> None:
    assert CliRunner().invoke(bcachectl, ["view", str(paths[0])]).exit_code == 2


def test_without_nbdkit_it_says_what_to_install(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(bcachectl, ["view", str(paths[0]), "--backing", str(paths[1])])
    assert done.exit_code == 1
    assert "nbdkit-plugin-python" in done.stderr


def merged(table: list[dict[str, Any]], size_bytes: int) -> bytes:
    """What the device of a table would have, as device mapper puts it together."""
    paths = {target["device"] for target in table} - {None}
    contents = {path: Path(path).read_bytes() for path in paths}
    pieces: list[bytes] = []
    end = 0
    for target in table:
        assert target["start"] * 512 == end, "without a gap"
        begin, length = target["sector"] * 512, target["sectors"] * 512
        device = contents.get(target["device"])
        pieces.append(device[begin : begin + length] if device is not None else bytes(length))
        assert len(pieces[-1]) == length, "inside of the device"
        end += length
    assert end == size_bytes
    return b"".join(pieces)


def test_a_table_for_dmsetup_is_what_the_kernel_read(paths: tuple[Path, Path]) -> None:
    cache, backing = paths
    done = CliRunner().invoke(
        bcachectl, ["--json", "view", "--dm-table", str(cache), "--backing", str(backing)]
    )
    document = json.loads(done.stdout)
    assert document["size_bytes"] == len(backing_bytes("crash")) - DATA_AT
    seen = merged(document["table"], document["size_bytes"])
    assert wrong_sectors("crash", bytes(DATA_AT) + seen) == set()
    lines = CliRunner().invoke(bcachectl, ["view", "--dm-table", str(cache), "--backing", str(backing)])
    assert lines.stdout.splitlines() == [
        f"{it['start']} {it['sectors']} linear {it['device']} {it['sector']}" for it in document["table"]
    ]
    assert f"{cache} is a file, and dmsetup needs a device" in lines.stderr
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


def test_a_table_of_a_volume_has_zeros_where_nothing_is(paths: tuple[Path, Path]) -> None:
    cache, _ = paths
    cache.write_bytes(image_bytes("flash"))
    done = CliRunner().invoke(bcachectl, ["--json", "view", "--dm-table", str(cache), "--volume", "0"])
    document = json.loads(done.stdout)
    assert document["size_bytes"] == 16 << 20
    assert any(target["device"] is None for target in document["table"])
    assert wrong_sectors("flash", merged(document["table"], document["size_bytes"])) == set()


def test_a_table_is_no_export(paths: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(bcachectl, ["view", "--dm-table", "--cow", str(paths[0]), "--volume", "0"])
    assert (done.exit_code, "exports nothing" in done.stderr) == (2, True)
