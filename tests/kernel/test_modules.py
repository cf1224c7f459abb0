"""The order of modules."""

import lzma
from pathlib import Path

from .modules import dependencies, load_order


def module(*needs: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def lay_out(root: Path, modules: dict[str, bytes]) -> None:
    folder = root / "lib/modules/6.1/kernel/drivers"
    folder.mkdir(parents=True)
    for name, data in modules.items():
        (folder / name).write_bytes(data)


def test_a_module_comes_after_all_it_needs(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.ko": module("b", "c"), "b.ko": module("c"), "c.ko": module(), "d.ko": module()})
    assert list(load_order(tmp_path, ["a"])) == ["c", "b", "a"]


def test_what_is_built_in_is_not_missed(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.ko": module("crc64")})
    assert list(load_order(tmp_path, ["virtio", "a"])) == ["a"]


def test_packed_modules_are_unpacked(tmp_path: Path) -> None:
    lay_out(tmp_path, {"virtio-blk.ko.xz": lzma.compress(module())})
    assert load_order(tmp_path, ["virtio_blk"]) == {"virtio_blk": module()}


def test_dashes_and_underscores_are_the_same() -> None:
    assert dependencies(module("crc-t10dif", "b")) == ["crc_t10dif", "b"]
    assert dependencies(module()) == []
