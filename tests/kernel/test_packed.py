# SPDX-License-Identifier: GPL-2.0-only
"""The ways in which a kernel and its modules are packed."""

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .errors import CannotRun, HarnessFailed
from .packed import unpack, unzstd

ELF = b"\x7fELF" + bytes(range(256)) * 100
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd: apt-get install zstd")


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "pack", [bytes, lzma.compress, gzip.compress, pytest.param(zstd, marks=needs_zstd, id="zstd")]
)
def test_what_is_packed_comes_out_whole(pack: Callable[[bytes], bytes]) -> None:
    assert unpack(pack(ELF)) == ELF


def test_what_is_packed_otherwise_is_told() -> None:
    with pytest.raises(HarnessFailed, match="unknown here: it begins 425a68"):
        unpack(b"BZh91AY")


@needs_zstd
def test_a_frame_that_is_cut_off_is_told() -> None:
    with pytest.raises(HarnessFailed, match="zstd -dc: "):
        unpack(zstd(ELF)[:-10])


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="apt-get install zstd"):
        unzstd(b"")
