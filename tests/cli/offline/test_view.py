# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl view`: what a client of the export reads is what the kernel read, and nothing is written."""

import asyncio
import json
import os
import select
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
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents
from bcached.units import format_size
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.copy_maps import map_text
from instruments.samples.damaged_kernel_image import backing_bytes, erase, structures, wrong_sectors
from instruments.samples.kernel_images import image_bytes

BIN = Path(sys.executable).parent
SECTOR = 512
DATA_AT = 8192  # of the backing device
PATIENCE_S = 100
EXPORTED, FAILED, INTERRUPTED = 0, 1, 130


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
def viewing(*arguments: object, path: str | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The program, killed if it still runs at the end."""
    command: list[str | Path] = [BIN / "bcachectl", "--json", "view", *map(str, arguments)]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def announced(program: "subprocess.Popen[str]") -> str:
    """The URI, once there is one."""
    assert program.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = program.stdout.readline()
        assert line, "it ended"
        text += line
    return str(json.loads(text)["uri"])


@contextmanager
def viewed(*arguments: object, end: int = signal.SIGINT, not_shown: str = "") -> Iterator[str]:
    """The URI of an export, for as long as the block lasts."""
    said = f"bcachectl: not shown: {not_shown}\n" if not_shown else ""
    with viewing(*arguments) as program:
        yield announced(program)
        program.send_signal(end)
        assert (program.wait(PATIENCE_S), program.communicate()) == (EXPORTED, ("", said))


def engine_of(program: "subprocess.Popen[str]") -> int:
    """The pid of its nbdkit."""
    (pid,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    return int(pid)


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
    newest = "528.5k newest (--confidence newest shows it)"
    with viewed(cache, "--backing", backing, not_shown=newest) as uri:
        assert 0 < len(wrong_sectors("crash", bytes(DATA_AT) + contents(uri, tmp_path))) < 2000
    with viewed(cache, "--backing", backing, "--confidence", "newest") as uri:
        assert wrong_sectors("crash", bytes(DATA_AT) + contents(uri, tmp_path)) == set()


def lacking(cache: Path, folder: Path) -> tuple[DirtyExtent, Path]:
    """A dirty extent, and the map of a copy that lacks its second sector, which is zeros there."""
    extent = next(one for one in extents_of(cache) if one.sectors > 3)
    bad, path = extent.copies[0].sector + 1, folder / "cache.map"
    with cache.open("r+b") as file:
        file.seek(bad * SECTOR)
        file.write(bytes(SECTOR))
    path.write_text(map_text(cache.stat().st_size, [range(bad, bad + 1)]))
    return extent, path


def extents_of(cache: Path) -> list[DirtyExtent]:
    left = asyncio.run(read_corrected([MemoryDevice.holding(cache.read_bytes())]))
    return list(DirtyExtents.of(left).of_inode(0))


@needs_nbdkit
def test_what_a_copy_lacks_cannot_be_read_by_a_client(paths: tuple[Path, Path], tmp_path: Path) -> None:
    cache, backing = paths
    extent, path = lacking(cache, tmp_path)
    with viewing(cache, "--backing", backing, "--map", path) as program:
        uri = announced(program)
        first = extent.offset * SECTOR - DATA_AT
        said = [
            subprocess.run(
                ["qemu-io", "-f", "raw", "-r", "-c", f"read {first + skipped * SECTOR} {SECTOR}", uri],
                capture_output=True,
                text=True,
            ).stdout
            for skipped in range(3)
        ]
        program.send_signal(signal.SIGINT)
        _, warned = program.communicate(timeout=PATIENCE_S)
    assert ["Input/output error" in one for one in said] == [False, True, False]
    first_line, *errors = filter(None, warned.splitlines())
    lost = f"{format_size(SECTOR)} that cannot be read"
    assert first_line == f"bcachectl: not shown: {lost}"
    assert [f"sector {first // SECTOR + 1}: dirty data that cannot be read" in one for one in errors] == [
        True
    ]


def test_what_a_copy_lacks_is_an_error_in_a_table(paths: tuple[Path, Path], tmp_path: Path) -> None:
    cache, backing = paths
    extent, path = lacking(cache, tmp_path)
    printed = CliRunner().invoke(
        bcachectl, ["view", "--dm-table", str(cache), "--backing", str(backing), "--map", str(path)]
    )
    assert printed.exit_code == 0
    wrong = [line for line in printed.stdout.splitlines() if line.endswith("error")]
    assert wrong == [f"{extent.offset + 1 - DATA_AT // SECTOR} 1 error"]


@needs_nbdkit
def test_the_end_of_nbdkit_is_a_failure_and_changes_no_device(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    cache, backing = paths
    socket = tmp_path / "socket"
    with viewing("--cow", "--socket", socket, cache, "--backing", backing) as program:
        uri = announced(program)
        write = ["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", uri]
        subprocess.run(write, check=True, capture_output=True)
        os.kill(engine_of(program), signal.SIGKILL)
        _, said = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == FAILED
    assert said.startswith("bcachectl: nbdkit ended with status")
    assert "neither device was written" in said
    assert not socket.exists(), "a client must not wait for an answer"
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


@needs_nbdkit
def test_a_program_that_is_killed_leaves_nothing_for_the_next_one(
    paths: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, backing = paths
    folder, socket = tmp_path / "tmp", tmp_path / "socket"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with viewing("--socket", socket, cache, "--backing", backing) as program:
        announced(program)
        (abandoned,) = folder.iterdir()
        assert list(abandoned.iterdir()) == [], "the map is in memory"
        engine = os.pidfd_open(engine_of(program))
        program.kill()
        ended, _, _ = select.select([engine], [], [], PATIENCE_S)
        os.close(engine)
    assert ended == [engine], "nbdkit ends with the program that began it"
    with viewing("--socket", socket, cache, "--backing", backing) as program:
        announced(program)
        (own,) = folder.iterdir()
        assert own != abandoned
        refused = CliRunner().invoke(
            bcachectl, ["view", str(cache), "--backing", str(backing), "--socket", str(socket)]
        )
        assert (refused.exit_code, "another process serves" in refused.stderr) == (FAILED, True)
        assert list(folder.iterdir()) == [own], "the folder of one that runs is not removed"
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE_S) == EXPORTED
    assert list(folder.iterdir()) == []


def test_no_file_is_taken_for_a_socket(paths: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nbdkit").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "nbdkit").chmod(0o755)
    with viewing("--socket", paths[1], paths[0], "--backing", paths[1], path=str(tmp_path)) as program:
        _, said = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, "expected no file" in said) == (FAILED, True)
    assert paths[1].read_bytes() == backing_bytes("crash")


def test_a_signal_before_there_is_an_export_is_an_interruption(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """The engine here is one that begins, and never serves."""
    (tmp_path / "nbdkit").write_text(f"#!/bin/sh\necho > {tmp_path}/begun\nexec sleep 1000\n")
    (tmp_path / "nbdkit").chmod(0o755)
    os.mkfifo(tmp_path / "begun")
    with viewing(paths[0], "--backing", paths[1], path=f"{tmp_path}:{os.environ['PATH']}") as program:
        (tmp_path / "begun").read_text()
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, said) == (INTERRUPTED, ("", "bcachectl: interrupted: nothing was exported\n"))


def test_an_engine_that_does_not_start_is_a_failure(paths: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nbdkit").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "nbdkit").chmod(0o755)
    with viewing(paths[0], "--backing", paths[1], path=f"{tmp_path}:{os.environ['PATH']}") as program:
        _, said = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == FAILED
    assert "nbdkit ended with status 3" in said
    assert "nbdkit-plugin-python" in said


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


def test_a_set_whose_superblock_is_gone_is_seen_as_the_owner_says(paths: tuple[Path, Path]) -> None:
    cache, backing = paths
    command = ("--json", "view", "--dm-table", cache, "--backing", backing)
    table = CliRunner().invoke(bcachectl, list(map(str, command))).stdout
    raw = bytearray(cache.read_bytes())
    raw[: 16 << 10] = bytes(16 << 10)
    cache.write_bytes(raw)
    refused = CliRunner().invoke(bcachectl, list(map(str, command)))
    assert (refused.exit_code, "--geometry" in refused.stderr) == (FAILED, True)
    seen = CliRunner().invoke(bcachectl, [*map(str, command), "--geometry", "64k,512"])
    assert (seen.exit_code, seen.stdout) == (0, table), seen.stderr


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
