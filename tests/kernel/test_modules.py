# SPDX-License-Identifier: GPL-2.0-only
"""The order of modules."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from .modules import dependencies, load_order
from .test_packed import needs_zstd, zstd


def module(*needs: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def lay_out(root: Path, modules: dict[str, bytes], top: str = "lib/modules") -> None:
    folder = root / top / "6.1/kernel/drivers"
    folder.mkdir(parents=True)
    for name, data in modules.items():
        (folder / name).write_bytes(data)


def test_a_module_comes_after_all_it_needs(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.ko": module("b", "c"), "b.ko": module("c"), "c.ko": module(), "d.ko": module()})
    assert list(load_order(tmp_path, ["a"])) == ["c", "b", "a"]


def test_modules_may_be_below_usr(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.ko": module("b"), "b.ko": module()}, "usr/lib/modules")
    assert list(load_order(tmp_path, ["a"])) == ["b", "a"]


def test_what_is_built_in_is_not_missed(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.ko": module("crc64")})
    assert list(load_order(tmp_path, ["virtio", "a"])) == ["a"]


@pytest.mark.parametrize(
    ("end", "pack"),
    [("xz", lzma.compress), ("gz", gzip.compress), pytest.param("zst", zstd, marks=needs_zstd)],
)
def test_packed_modules_are_unpacked(tmp_path: Path, end: str, pack: Callable[[bytes], bytes]) -> None:
    lay_out(tmp_path, {f"virtio-blk.ko.{end}": pack(module())})
    assert load_order(tmp_path, ["virtio_blk"]) == {"virtio_blk": module()}


def test_dashes_and_underscores_are_the_same() -> None:
    assert dependencies(module("crc-t10dif", "b")) == ["crc_t10dif", "b"]
    assert dependencies(module()) == []
