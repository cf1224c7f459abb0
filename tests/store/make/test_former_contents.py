# SPDX-License-Identifier: GPL-2.0-only
"""Nothing that may exist nowhere else is overwritten without an explicit word, and no message offers that."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bcached.errors import DeviceRefused
from bcached.store.make.request import MakeRequest, make_set
from instruments.samples.format_samples import sealed, with_field
from instruments.samples.image_builder import SECTOR, ImageBuilder

FOUR = "holds 4 dirty keys of 16k, which may exist nowhere else"
MAKERS = [{}, {"wipe_bcache": True}, {"dry_run": True, "wipe_bcache": True}, {"image_bytes": 32 << 20}]
every_way = pytest.mark.parametrize("how", MAKERS, ids=["plain", "wipe", "dry run", "new image"])


def dirty(image: ImageBuilder) -> None:
    keys = [image.extent(0, 100 * n, 8, dirty=n < 3) for n in range(5)]
    image.finish(image.node(keys), journal=[[image.extent(1, 0, 8, dirty=True)]])


def stale(image: ImageBuilder) -> None:
    keys = [image.extent(0, 100 * n, 8, dirty=True) for n in range(4)]
    for key in keys:
        image.gens[0][image.geometry.bucket_of(key.pointers[0].sector)] = 1
    image.finish(image.node(keys))


def damaged(image: ImageBuilder) -> None:
    root = image.node([image.extent(0, 0, 8, dirty=True)])
    image.flip(image.byte_of(root) + 30)
    image.finish(root)


def torn_superblock(image: ImageBuilder) -> None:
    dirty(image)
    for byte in (4096 + 60, 8192 + 60):
        image.flip(byte)


def backing(image: ImageBuilder) -> None:
    raw = with_field(with_field(image.superblocks[0].pack(), 16, "Q", 1), 104, "Q", 2 << 61 | 1)
    image.write(4096, sealed(raw, 208 + 8 * len(image.superblocks[0].journal_buckets)))


def wiped_magic(image: ImageBuilder) -> None:
    """As wipefs does, once for the superblock and once for its copy."""
    dirty(image)
    for byte in (4096 + 24, 8192 + 24):
        image.write(byte, bytes(16))


def without_superblock(image: ImageBuilder) -> None:
    dirty(image)
    image.write(0, bytes(16384))


def request(paths: list[str], **how: object) -> MakeRequest:
    return MakeRequest(tuple(paths), bucket_bytes=32 << 10, **how)  # type: ignore[arg-type]


@every_way
@pytest.mark.parametrize(
    ("put", "words"),
    [
        (dirty, f"{FOUR} (volume 0, plain: 24 dirty sectors; volume 1, flash: 8 dirty sectors): that would"),
        (stale, f"{FOUR} (volume 0, plain: 32 dirty sectors): that would be lost"),
        (
            wiped_magic,
            "its bcache superblock was erased in part, and the rest is right: it may hold dirty data",
        ),
        (without_superblock, "a journal and an index of a cache set are there: it may hold dirty data"),
        (damaged, "may hold dirty data, which cannot be counted: "),
        (torn_superblock, "its bcache superblock cannot be read ("),
        (backing, "it is a bcache backing device (dirty, writeback, of cache set 05e70000-"),
    ],
)
async def test_what_may_be_missed_is_refused_by_name(
    tmp_path: Path, put: Callable[[ImageBuilder], None], words: str, how: dict[str, object]
) -> None:
    image = ImageBuilder()
    put(image)
    paths = image.files(tmp_path)
    with pytest.raises(DeviceRefused) as refused:
        await make_set(request(paths, **how))
    told = str(refused.value)
    assert words in told
    assert "would be lost" in told
    assert ("bcachectl rescue -n" in told) == (put is not backing)
    assert "--force" not in told
    assert "--wipe" not in told
    assert Path(paths[0]).read_bytes() == bytes(image.images[0])


async def test_a_journal_whose_index_is_gone_keeps_nothing(tmp_path: Path) -> None:
    image = ImageBuilder()
    without_superblock(image)
    image.write(image.byte_of(image.root), bytes(4096))
    (path,) = image.files(tmp_path)
    assert (await make_set(request([path], dry_run=True))).lost == {}


@pytest.mark.parametrize("given", [[0], [1], [0, 1]])
async def test_members_of_a_set_are_looked_at_together_and_one_alone_is_not_taken_for_empty(
    tmp_path: Path, given: list[int]
) -> None:
    image = ImageBuilder(members=2)
    image.finish(image.node([image.extent(0, 0, 8, dirty=True, member=1)]))
    paths = [image.files(tmp_path)[number] for number in given]
    words = "holds 1 dirty key of 4k" if len(given) == 2 else "may hold dirty data, which cannot be counted"
    with pytest.raises(DeviceRefused, match=words):
        await make_set(request(paths, wipe_bcache=True))


async def test_clean_data_may_go_and_an_explicit_word_is_told_what_it_cost(tmp_path: Path) -> None:
    image = ImageBuilder()
    image.finish(image.node([image.extent(0, 0, 8)]))
    outcome = await make_set(request(image.files(tmp_path), wipe_bcache=True))
    assert outcome.lost == {}
    image = ImageBuilder()
    dirty(image)
    (path,) = image.files(tmp_path)
    outcome = await make_set(request([path], force=True))
    assert "holds 4 dirty keys of 16k" in outcome.lost[path]


@pytest.mark.parametrize(("block", "warns"), [(None, True), (4096, True), (512, False)])
async def test_buckets_of_one_block_are_warned_of(tmp_path: Path, block: int | None, warns: bool) -> None:
    path = str(tmp_path / "image")
    made = MakeRequest((path,), bucket_bytes=4096, block_bytes=block, image_bytes=16 << 20)
    assert ["crashes at the first key" in warning for warning in (await make_set(made)).warnings] == [
        True
    ] * warns
    assert Path(path).read_bytes()[:SECTOR] == bytes(SECTOR)
