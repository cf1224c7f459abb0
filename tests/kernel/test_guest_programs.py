# SPDX-License-Identifier: GPL-2.0-only
"""Programs for the guest, and the boots they are for."""

import shutil
from pathlib import Path

import pytest

from .errors import CannotRun
from .guest_programs import programs
from .machine import Handover
from .verdicts import complaints_about


def test_a_program_comes_with_its_loader_and_libraries() -> None:
    files = programs(["true"], {"true": "coreutils"})
    path = shutil.which("true")
    assert path is not None
    assert files["host/true"] == Path(path).read_bytes()
    assert any("/ld-linux" in name or "/ld-" in name for name in files)
    assert any("libc.so" in name for name in files)
    assert all(not name.startswith("/") and data[:4] == b"\x7fELF" for name, data in files.items())


def test_a_program_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="apt-get install coreutils"):
        programs(["true"], {"true": "coreutils"})


def test_a_boot_is_sound_if_its_log_says_no_more_than_it_should() -> None:
    begin = "<6>[ 1.0] bcached-kernel-test: begin\n"
    sound = begin + "<6>[ 1.1] bcache: bch_cached_dev_run() cached dev vdc is running already\n"
    bad = begin + "<6>[ 1.1] bcache: bch_count_io_errors() something\n"

    def told(log: str, **files: bytes) -> list[str]:
        return complaints_about(Handover({"dmesg": log.encode(), **files}, "", 0))

    assert told(sound) == []
    assert told(sound, failures=b"no volume\n") == ["no volume"]
    assert told(bad) == ["bcache: bch_count_io_errors() something"]
    assert told("") == ["the kernel's log does not hold the scenario's beginning"]
