# SPDX-License-Identifier: GPL-2.0-only
"""The offline verbs with names that are no UTF-8, and with an output that takes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.damaged_kernel_image import backing_bytes, wrong_sectors
from instruments.samples.kernel_images import image_bytes

BIN = Path(sys.executable).parent


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    cache, backing = (os.fsdecode(os.fsencode(tmp_path / "x") + end) for end in (b"\xff.img", b"\xfe.img"))
    Path(cache).write_bytes(image_bytes("crash"))
    Path(backing).write_bytes(backing_bytes("crash"))
    return cache, backing


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def told(*arguments: object) -> Any:
    done = run("--json", *arguments)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_documents_have_any_name_as_it_is(paths: tuple[str, str]) -> None:
    cache, backing = paths
    clone = f"{cache}.clone"
    assert told("check", cache, "--backing", backing)["backing"][0]["path"] == backing
    assert told("rescue", "-n", cache, "--backing", backing)["complete"] is False
    assert told("clone", "--yes", cache, clone)["target"] == clone
    assert told("resize", "-n", cache, "1G")["path"] == cache
    table = run("--json", "view", "--dm-table", cache, "--backing", backing)
    assert {target["device"] for target in json.loads(table.stdout)["table"]} == set(paths)
    line = run("dump", "--only", "superblock", cache).stdout
    assert json.loads(line.splitlines()[0])["path"] == cache


def test_an_undo_file_knows_any_name(paths: tuple[str, str]) -> None:
    cache, _ = paths
    raw = bytearray(image_bytes("crash"))
    raw[4096] ^= 1
    Path(cache).write_bytes(raw)
    undo = f"{cache}.undo"
    assert told("repair", "--yes", "--superblock", "--undo", undo, cache)["done"]
    assert Path(cache).read_bytes() != raw
    assert told("repair", "--restore", undo)["devices"] == [cache]
    assert Path(cache).read_bytes() == raw


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_terminal_of_any_encoding_shows_any_name(tmp_path: Path, encoding: str) -> None:
    cache = os.fsencode(tmp_path) + "/ü中".encode() + b"\xff.img"
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    os.replace(tmp_path / "x", cache)
    done = subprocess.run(
        [BIN / "bcachectl", "check", cache],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
    )
    shown = "ü中".encode(encoding, "backslashreplace") + b"\xff.img"
    assert (done.returncode, shown in done.stdout, done.stderr) == (4, True, b"")


def test_a_report_that_cannot_be_printed_is_told_from_what_was_done(paths: tuple[str, str]) -> None:
    cache, backing = paths
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [BIN / "bcachectl", "rescue", "--yes", cache, "--backing", backing],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "bcachectl: standard output: No space left on device: the report is lost, not what it is about\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert wrong_sectors("crash", Path(backing).read_bytes()) == set()
