# SPDX-License-Identifier: GPL-2.0-only
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes, kernel_image


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def lines(*arguments: object) -> list[dict[str, Any]]:
    done = run("dump", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def builder() -> ImageBuilder:
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    return builder.finish(root, 1, [[builder.extent(0, 5000, 8)], []])


@pytest.fixture
def path(builder: ImageBuilder, tmp_path: Path) -> str:
    (path,) = builder.files(tmp_path)
    return path


def test_every_structure_has_its_lines(path: str) -> None:
    counts = Counter(line["type"] for line in lines(path))
    assert counts == {
        "superblock": 1,
        "journal_entry": 2,
        "prio_set": 1,
        "node": 4,
        "key": 31,
        "volume": 2,
        "bucket": 640,
    }


def test_each_type_can_be_had_alone(path: str) -> None:
    everything = lines(path)
    for kind in ("superblock", "journal_entry", "prio_set", "node", "key", "volume", "bucket"):
        assert lines("--only", kind, path) == [line for line in everything if line["type"] == kind]
    assert lines("--only", "finding", path) == []
    assert run("dump", "--only", "bset", path).exit_code == 2


def test_the_lines_say_it_all(builder: ImageBuilder, path: str) -> None:
    superblock, *rest = lines(path)
    assert (superblock["path"], superblock["bucket_count"]) == (path, 640)
    entry = rest[0]
    assert entry["seq"] == entry["last_seq"] == 1
    assert entry["replayed"]
    assert entry["keys"][0]["offset"] == 5000
    assert entry["btree_level"] == 1
    assert entry["btree_root"]["pointers"] == [
        {"device": 0, "sector": builder.root.pointers[0].sector, "gen": 0}
    ]
    (prios,) = [line for line in rest if line["type"] == "prio_set"]
    assert (prios["bucket"], prios["seq"]) == (builder.prio_buckets[0][0], 7)
    nodes = [line for line in rest if line["type"] == "node"]
    assert [node["level"] for node in nodes] == [1, 0, 0, 0]
    assert [len(node["bsets"][0]["keys"]) for node in nodes] == [3, 10, 10, 10]
    assert all(node["damage"] is None and not node["torn"] for node in nodes)
    keys = [line for line in rest if line["type"] == "key"]
    assert all(key["live"] and key["pointers"][0]["stale_by"] == 0 for key in keys)
    buckets = [line for line in rest if line["type"] == "bucket"]
    uses = Counter(bucket["use"] for bucket in buckets)
    assert uses == {"reserved": 1, "journal": 5, "prio": 1, "uuid": 1, "btree": 4, "data": 31, "free": 597}
    marks = Counter(bucket["mark"] for bucket in buckets)
    assert marks == {"metadata": 11, "dirty": 15, "clean": 16, "none": 598}
    assert sum(bucket["dirty_sectors"] for bucket in buckets) == 120


def test_of_a_kernel_s_image_it_gives_the_kernel_s_keys(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image_bytes("full-lru"))
    found = [
        [
            key["inode"],
            key["offset"],
            key["sectors"],
            int(key["dirty"]),
            [[pointer["device"], pointer["sector"], pointer["gen"]] for pointer in key["pointers"]],
        ]
        for key in lines("--only", "key", path)
        if key["live"]
    ]
    assert found == kernel_image("full-lru").registered["keys"]


def test_copies_of_one_key_stand_on_one_line(tmp_path: Path) -> None:
    builder = ImageBuilder(members=2)
    one, two = builder.extent(0, 0, 8), builder.extent(0, 0, 8, member=1)
    both = type(one)(0, 0, 8, False, one.pointers + two.pointers)
    builder.gens[1][two.pointers[0].sector // 64] = 2
    paths = builder.finish(builder.node([both])).files(tmp_path)
    (key,) = lines("--only", "key", *paths)
    assert key["live"]
    assert [pointer["stale_by"] for pointer in key["pointers"]] == [0, 2]


def test_what_is_damaged_is_told_and_the_rest_is_there(builder: ImageBuilder, tmp_path: Path) -> None:
    builder.flip(builder.byte_of(builder.root) + 40)
    (path,) = builder.files(tmp_path)
    found = lines(path)
    (node,) = [line for line in found if line["type"] == "node"]
    assert "expected 0x" in node["damage"]
    assert node["bsets"] == []
    assert [line["rule"] for line in found if line["type"] == "finding"] == ["node-damaged"]
    assert len([line for line in found if line["type"] == "key"]) == 1


@pytest.mark.parametrize(("offset", "wrong"), [(24, bytes(16)), (0, b"damaged!"), (206, b"\x0c")])
def test_a_damaged_superblock_is_said_and_hides_nothing(path: str, offset: int, wrong: bytes) -> None:
    whole = lines(path)
    with open(path, "r+b") as file:
        file.seek(4096 + offset)
        file.write(wrong)
        file.seek(8192)
        file.write(bytes(4096))
    before = Path(path).read_bytes()
    found = lines(path)
    assert [line["rule"] for line in found if line["type"] == "finding"] == ["superblock"]
    for kind in ("journal_entry", "prio_set", "node", "key", "volume"):
        assert [line for line in found if line["type"] == kind] == [
            line for line in whole if line["type"] == kind
        ]
    assert Path(path).read_bytes() == before


def test_a_device_without_a_superblock_has_nothing_to_dump(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    done = run("dump", path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "superblock at" in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_member_of_several_is_refused(tmp_path: Path) -> None:
    builder = ImageBuilder(members=2).finish()
    done = run("dump", builder.files(tmp_path)[1])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "its set has 2 members" in done.stderr
