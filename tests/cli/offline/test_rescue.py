# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl rescue`: dirty data reaches the device that is named, and nothing else is written."""

import asyncio
import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock_seal import resealed
from bcached.format.uuid_entry import BURNT_UUID
from instruments.samples.copy_maps import map_text
from instruments.samples.damaged_kernel_image import backing_bytes, structures, wrong_sectors
from instruments.samples.kernel_images import image_bytes

DIRTY_SECTORS = 48167
FAILED, USAGE = 1, 2
STATE_AT = 4096 + 104 + 7  # the highest byte of a backing superblock's flags


def run(*arguments: object, told: str | None = None) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)), input=told)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("crash"))
    return path


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing.img"
    path.write_bytes(backing_bytes("crash"))
    return path


def change(path: Path, byte: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        file.write(data)


def uuid_table_at() -> int:
    checked, _ = asyncio.run(structures("crash"))
    assert checked.journal is not None
    return checked.journal.newest.uuid_bucket.pointers[0].sector * 512


def test_it_writes_all_dirty_data_and_nothing_else(cache: Path, backing: Path) -> None:
    done = run("--json", "rescue", "--yes", cache, "--backing", backing)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    nothing = {"extents": 0, "sectors": 0}
    assert found["sure"] == {"extents": 1255, "sectors": DIRTY_SECTORS}
    assert [found[name] for name in ("newest", "conflicting", "unreadable")] == [nothing] * 3
    assert (found["written_sectors"], found["verified"], found["complete"]) == (DIRTY_SECTORS, True, True)
    assert wrong_sectors("crash", backing.read_bytes()) == set()
    assert backing.read_bytes()[:8192] == backing_bytes("crash")[:8192]
    assert cache.read_bytes() == image_bytes("crash")


def test_what_a_lost_leaf_named_is_written_if_the_newest_is_wanted(cache: Path, backing: Path) -> None:
    _, (leaf,) = asyncio.run(structures("crash"))
    change(cache, leaf.key.pointers[0].sector * 512, bytes(leaf.key.sectors * 512))
    dry = run("rescue", "-n", cache, "--backing", backing)
    assert "22.6M that lost leaves named was found in old entries of the journal, 1 to 251" in dry.stdout
    for options, written in (((), 1871), (("--confidence", "newest"), DIRTY_SECTORS)):
        done = run("--json", "rescue", "--yes", *options, cache, "--backing", backing)
        assert done.exit_code == FAILED  # there may be more that nothing names any more
        found = json.loads(done.stdout)
        assert (found["written_sectors"], found["complete"]) == (written, False)
        assert (found["sure"]["sectors"], found["newest"]["sectors"]) == (1871, DIRTY_SECTORS - 1871)
        assert (found["old_entries"]["sectors"], found["old_entries"]["last_seq"]) == (46296, 251)
    assert wrong_sectors("crash", backing.read_bytes()) == set()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(cache: Path, backing: Path) -> None:
    done = run("rescue", "-n", cache, "--backing", backing)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "journal: entry 260 is the newest found: nothing follows it; an erased newer one would not show",
        "dirty data of volume 0:",
        "  sure           1,255 extents    23.5M   named by an index whose journal is whole",
        f"would write 23.5M to {backing}",
    ]
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


def test_run_again_it_finds_the_data_there_already(cache: Path, backing: Path) -> None:
    assert run("rescue", "--yes", cache, "--backing", backing).exit_code == 0
    change(backing, 1 << 20, bytes(1 << 20))  # as if interrupted
    again = json.loads(run("--json", "rescue", "--yes", cache, "--backing", backing).stdout)
    assert again["written_sectors"] == DIRTY_SECTORS
    assert 0 < again["equal_sectors"] < DIRTY_SECTORS
    assert wrong_sectors("crash", backing.read_bytes()) == set()


def test_it_asks_for_consent(cache: Path, backing: Path) -> None:
    done = run("rescue", cache, "--backing", backing)
    assert (done.exit_code, backing.read_bytes()) == (USAGE, backing_bytes("crash"))
    assert "say --yes" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--to", "x"),
        ("--volume", "0"),
        ("--volume", "0", "--to", "x", "--mark-clean"),
        ("--backing", "x", "--to", "x"),
        ("--backing", "x", "--set-uuid", "10111213-1415-1617-1819-1a1b1c1d1e1f"),
        ("--backing", "x", "--geometry", "64k", "--set-uuid", "10111213-1415-1617-1819-1a1b1c1d1e1f"),
        ("--backing", "x", "--geometry", "3k,1k", "--set-uuid", "10111213-1415-1617-1819-1a1b1c1d1e1f"),
        *(
            ("--backing", "x", "--geometry", sizes, "--set-uuid", "10111213-1415-1617-1819-1a1b1c1d1e1f")
            for sizes in ("2k,512", "32M,512", "1T,512", "512k,128k", "16M,16M")
        ),
        ("--backing", "x", "--confidence", "none"),
    ],
)
def test_a_wrong_use_is_refused(cache: Path, arguments: tuple[str, ...]) -> None:
    assert run("rescue", cache, *arguments).exit_code == USAGE


@pytest.mark.parametrize("which", ["cache", "backing"])
def test_a_device_in_use_is_refused(cache: Path, backing: Path, which: str) -> None:
    with (cache if which == "cache" else backing).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("rescue", "--yes", cache, "--backing", backing)
    assert (done.exit_code, done.stdout) == (FAILED, "")
    assert "in use" in done.stderr
    assert backing.read_bytes() == backing_bytes("crash")


def test_the_cache_is_never_the_target(cache: Path) -> None:
    for arguments in (("--backing", cache), ("--volume", 0, "--to", cache)):
        assert run("rescue", "--yes", cache, *arguments).exit_code == FAILED
    assert cache.read_bytes() == image_bytes("crash")


def test_another_backing_device_is_refused_and_what_there_is_is_named(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(backing_bytes("clean"))
    done = run("rescue", "--yes", cache, "--backing", other)
    assert done.exit_code == FAILED
    assert "volume 0 (9bc1f66d-62e1-4b4a-bd9c-099118638628) has dirty data" in done.stderr
    assert other.read_bytes() == backing_bytes("clean")


def test_a_volume_becomes_an_image(cache: Path, tmp_path: Path) -> None:
    cache.write_bytes(image_bytes("flash"))
    image = tmp_path / "volume.img"
    done = run("rescue", "--yes", cache, "--volume", 0, "--to", image)
    assert done.exit_code == 0
    assert wrong_sectors("flash", image.read_bytes()) == set()
    assert image.stat().st_size == 16 << 20
    assert run("rescue", "--yes", cache, "--volume", 0, "--to", image).exit_code == 0, "it may be repeated"
    os.truncate(image, 4096)
    refused = run("rescue", "--yes", cache, "--volume", 0, "--to", image)
    assert refused.exit_code == FAILED
    assert "exists already" in refused.stderr


def test_nothing_else_is_taken_for_an_image(cache: Path, tmp_path: Path) -> None:
    cache.write_bytes(image_bytes("flash"))
    other, short = tmp_path / "other.img", tmp_path / "short.img"
    other.write_bytes(image_bytes("crash")[: 16 << 20])
    short.write_bytes(b"x")
    for path, reason in ((other, "that would be lost"), (short, "not with the volume's size")):
        before = path.read_bytes()
        for options in (["-n"], ["--yes"]):
            done = run("rescue", *options, cache, "--volume", 0, "--to", path)
            assert (done.exit_code, reason in done.stderr) == (1, True), done.output
            assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["crypto_LUKS", "the journal of a cache set"])
def test_nothing_else_is_taken_for_a_backing_device_without_a_superblock(
    cache: Path, backing: Path, name: str
) -> None:
    """One that has a set's journal is that set's cache device, also without a superblock."""
    before = bytearray(backing.read_bytes())
    before[: 16 << 10] = bytes(16 << 10)
    if name == "crypto_LUKS":
        before[:8] = b"LUKS\xba\xbe\0\1"
    else:
        before[16 << 10 : 32 << 20] = image_bytes("crash")[16 << 10 : 32 << 20]
    backing.write_bytes(before)
    for options in (["-n"], ["--yes"]):
        done = run("rescue", *options, cache, "--backing", backing, "--volume", 0)
        assert (done.exit_code, name in done.stderr, "--to FILE" in done.stderr) == (1, True, True)
    assert backing.read_bytes() == before


def test_only_a_whole_backing_device_is_marked_clean(cache: Path, backing: Path) -> None:
    change(cache, 4 << 16, bytes(512))  # journal entry 256
    partly = run("rescue", "--yes", "--mark-clean", cache, "--backing", backing)
    assert partly.exit_code == FAILED
    assert "not marked clean: not all of its dirty data was written" in partly.stderr
    assert "[dirty]" in run("show", backing).stdout
    cache.write_bytes(image_bytes("crash"))
    done = run("rescue", "--yes", "--mark-clean", cache, "--backing", backing)
    assert done.exit_code == 0
    shown = json.loads(run("--json", "show", backing).stdout)
    assert (shown["state"], shown["damage"]) == ("detached", None)
    assert shown["set_uuid"] == "00000000-0000-0000-0000-000000000000"
    assert wrong_sectors("crash", backing.read_bytes()) == set()


def test_what_is_not_sure_is_written_only_when_asked_for(cache: Path, backing: Path) -> None:
    change(cache, 4 << 16, bytes(512))  # journal entry 256
    done = run("--json", "rescue", "--yes", cache, "--backing", backing)
    assert done.exit_code == FAILED
    assert "newest (--confidence newest writes it)" in done.stderr
    found = json.loads(done.stdout)
    assert found["written_sectors"] == found["sure"]["sectors"] < found["newest"]["sectors"]
    assert [finding["rule"] for finding in found["damage"]] == ["journal-hole"]
    asked = run("--json", "rescue", "--yes", "--confidence", "newest", cache, "--backing", backing)
    assert asked.exit_code == 0
    sectors = json.loads(asked.stdout)["written_sectors"]
    assert sectors == found["sure"]["sectors"] + found["newest"]["sectors"]


@pytest.mark.parametrize("state", [0, 1, 3])
def test_a_backing_device_that_may_have_been_used_alone_is_overwritten_only_when_asked(
    cache: Path, backing: Path, state: int
) -> None:
    raw = bytearray(backing.read_bytes())
    raw[STATE_AT] = raw[STATE_AT] & 0x9F | state << 5
    backing.write_bytes(raw)
    damaged = run("rescue", "-n", cache, "--backing", backing)
    assert (damaged.exit_code, damaged.stdout) == (FAILED, "")
    assert "--volume N says whose data it is" in damaged.stderr
    raw[4096:8192] = resealed(raw[4096:8192], "here")
    backing.write_bytes(raw)
    done = run("rescue", "-n", cache, "--backing", backing)
    assert "nothing is sure: the backing device" in done.stdout
    assert "would write 0" in done.stdout


def test_without_a_uuid_table_an_earlier_one_or_the_owner_says_whose_data_it_is(
    cache: Path, backing: Path
) -> None:
    change(cache, uuid_table_at(), bytes(1 << 16))
    refused = run("rescue", "-n", cache, "--backing", backing)
    assert refused.exit_code == FAILED
    assert "volume 0 (without an entry in the uuid table) has dirty data" in refused.stderr
    named = run("rescue", "--yes", cache, "--backing", backing, "--volume", 0)
    assert named.exit_code == 0
    assert wrong_sectors("crash", backing.read_bytes()) == set()


def test_a_volume_that_the_kernel_gave_up_is_written_only_when_asked(cache: Path, backing: Path) -> None:
    change(cache, uuid_table_at(), BURNT_UUID.bytes)
    refused = run("rescue", "-n", cache, "--backing", backing)
    assert "volume 0 (given up) has dirty data" in refused.stderr
    doubtful = run("rescue", "--yes", cache, "--backing", backing, "--volume", 0)
    assert doubtful.exit_code == FAILED
    assert "volume 0 was given up, and the device may have been used without it since" in doubtful.stdout
    assert backing.read_bytes() == backing_bytes("crash")
    done = run("rescue", "--yes", "--confidence", "newest", cache, "--backing", backing, "--volume", 0)
    assert done.exit_code == 0
    assert wrong_sectors("crash", backing.read_bytes()) == set()


def test_an_erased_superblock_is_replaced_by_what_the_owner_says(cache: Path, backing: Path) -> None:
    change(cache, 4096, bytes(4096))
    refused = run("rescue", "-n", cache, "--backing", backing)
    assert refused.exit_code == FAILED
    assert "--geometry 512k,4k" in refused.stderr
    uuid = json.loads(run("--json", "show", backing).stdout)["set_uuid"]
    layout = ("--geometry", "64k,512")
    image = cache.with_name("volume.img")
    assert run("rescue", cache, "--volume", 0, "--to", image, *layout).exit_code == USAGE
    named = run("rescue", "--yes", cache, "--volume", 0, "--to", image, *layout, "--set-uuid", uuid)
    assert named.exit_code == 0
    done = run("rescue", "--yes", cache, "--backing", backing, *layout)
    assert done.exit_code == 0
    assert wrong_sectors("crash", backing.read_bytes()) == set()
    found = json.loads(
        run("--json", "rescue", "-n", cache, "--backing", backing, "--geometry", "64k,4k").stdout
    )
    assert found["sure"]["sectors"] == 0, "blocks of another size"
    wrong = run("rescue", "-n", cache, "--backing", backing, "--geometry", "512k,512", "--set-uuid", uuid)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (FAILED, 1)


def test_what_a_map_calls_bad_is_not_read(cache: Path, backing: Path, tmp_path: Path) -> None:
    mapped = tmp_path / "cache.map"
    mapped.write_text(map_text(cache.stat().st_size, [range(40 << 10, 42 << 10)]))
    dry = run("--json", "rescue", "-n", cache, "--backing", backing, "--map", mapped)
    assert (dry.exit_code, backing.read_bytes()) == (FAILED, backing_bytes("crash"))
    assert "would not be written: " in dry.stderr
    done = run("--json", "rescue", "--yes", cache, "--backing", backing, "--map", mapped)
    assert done.exit_code == FAILED
    found = json.loads(done.stdout)
    assert found["unreadable"]["sectors"] > 0
    assert found["written_sectors"] + found["unreadable"]["sectors"] == DIRTY_SECTORS
    left = wrong_sectors("crash", backing.read_bytes())
    assert len(left) == found["unreadable"]["sectors"]
    assert json.loads(dry.stdout)["unreadable"]["extents"] == found["unreadable"]["extents"]


def test_a_device_that_was_cut_short_gives_what_it_has(cache: Path, backing: Path) -> None:
    os.truncate(cache, 20 << 20)
    done = run("--json", "rescue", "--yes", cache, "--backing", backing)
    assert done.exit_code == FAILED
    found = json.loads(done.stdout)
    assert found["written_sectors"] + found["unreadable"]["sectors"] == DIRTY_SECTORS
    assert len(wrong_sectors("crash", backing.read_bytes())) == found["unreadable"]["sectors"] > 0


def test_a_backing_device_that_is_too_short_is_refused_before_anything_is_written(
    cache: Path, backing: Path
) -> None:
    os.truncate(backing, 4 << 20)
    for option in ("--yes", "-n"):
        done = run("rescue", option, cache, "--backing", backing)
        assert done.exit_code == FAILED
        assert "is it the right device, and all of it?" in done.stderr
    assert backing.read_bytes() == backing_bytes("crash")[: 4 << 20]


def test_a_set_that_was_never_in_use_has_nothing(cache: Path, backing: Path) -> None:
    cache.unlink()
    assert run("make", "--size", "64M", "-b", "64k", cache).exit_code == 0
    done = run("rescue", "-n", cache, "--backing", backing)
    assert done.exit_code == FAILED
    assert "was never in use" in done.stderr
