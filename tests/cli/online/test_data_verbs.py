# SPDX-License-Identifier: GPL-2.0-only
"""The verbs that put data into volumes and get it back, against a real daemon."""

import random
from collections.abc import Iterator

import pytest

from instruments.clients.shell import Shell


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.fixture
def volume(shell: Shell) -> Iterator[str]:
    """The inode of a volume of one's own."""
    inode = shell.told("volume", "create", "data").strip()
    yield inode
    shell.told("volume", "delete", inode, "--force")


def test_what_is_written_is_read(shell: Shell, volume: str) -> None:
    data = noise(64 << 10)
    assert (
        shell.told("write", volume, "1M", given=data) == "65536 bytes written to 128 sectors from 2048 on\n"
    )
    assert shell.gave("read", volume, "1M", "64k") == data
    assert shell.gave("read", volume, "2056", "8") == data[4096:8192]


def test_a_file_of_any_length_is_filled_up_to_whole_blocks(shell: Shell, volume: str) -> None:
    data = noise(10_000)
    told = shell.document("write", volume, "0", given=data)
    assert told == {"inode": int(volume), "offset": 0, "sectors": 24, "bytes": 10_000}
    assert shell.gave("read", volume, "0", "24") == data + bytes(12288 - 10_000)
    assert shell.document("write", volume, "0")["sectors"] == 0


def test_more_than_one_commit_is_written_and_read_in_pieces(shell: Shell, volume: str) -> None:
    data = noise((9 << 20) + 5)  # 64 buckets of 64k go into one commit
    shell.told("write", volume, "0", "--lazy", given=data)
    assert shell.gave("read", volume, "0", "9M") == data[: 9 << 20]
    assert shell.gave("read", volume, "9M", "4k") == data[9 << 20 :] + bytes(4091)


def test_what_is_not_there_is_said_with_its_place_or_read_as_zeros(shell: Shell, volume: str) -> None:
    shell.told("write", volume, "0", given=noise(4096))
    shell.told("write", volume, "16", given=noise(4096, 2))
    done = shell.run("read", volume, "0", "12k")
    assert done.exit_code == 1
    assert done.stdout_bytes == noise(4096)
    assert done.stderr == f"bcachectl: volume {volume}: expected 24 sectors from 0 on, found none at 8\n"
    whole = noise(4096) + bytes(4096) + noise(4096, 2) + bytes(4096)
    assert shell.gave("read", volume, "0", "16k", "--zeros") == whole
    assert shell.gave("read", volume, "1G", "4k", "--zeros") == bytes(4096)


def test_lookup_shows_where_things_are(shell: Shell, volume: str) -> None:
    assert shell.told("lookup", volume, "0", "1G") == "nothing there\n"
    shell.told("write", volume, "0", "--dirty", given=noise(4096))
    shell.told("write", volume, "4M", "--clean", given=noise(8192))
    header, first, second = shell.told("lookup", volume, "0", "1G").splitlines()
    assert header.split() == ["offset", "sectors", "size", "state", "device", "sector", "gen"]
    assert first.split()[:5] == ["0", "8", "4k", "dirty", "0"]
    assert second.split()[:5] == ["8192", "16", "8k", "clean", "0"]
    keys = shell.document("lookup", volume, "0", "1G", "--no-touch")["keys"]
    assert [key["offset"] for key in keys] == [0, 8192]
    done = shell.run("--json", "lookup", volume, "0", "1G", "--limit", "1")
    assert '"next": 8' in done.stdout
    assert done.stderr == "there may be more from sector 8 on\n"


def test_dirty_data_is_marked_clean_or_dropped(shell: Shell, volume: str) -> None:
    shell.told("write", volume, "0", "--dirty", given=noise(32768))
    assert "holds 64 dirty sectors" in shell.refused("volume", "delete", volume)
    assert shell.told("mark-clean", volume, "0", "4k") == "8 sectors marked clean\n"
    assert shell.document("mark-clean", volume, "0", "1M", "--lazy") == {"sectors": 56, "changed": 0}
    assert shell.told("mark-clean", volume, "0", "1M") == "0 sectors marked clean\n"
    assert shell.told("invalidate", volume, "8k", "4k") == "8 sectors dropped\n"
    assert shell.document("invalidate", volume, "0", "1G", "--lazy") == {"sectors": 56}
    assert shell.told("flush").startswith("all is durable through journal entry ")
    assert shell.document("flush")["sequence"] > 0


def test_a_flash_only_volume_takes_what_is_written_as_dirty(shell: Shell) -> None:
    inode = shell.told("volume", "create", "flash", "--size", "10M").strip()
    shell.told("write", inode, "0", given=noise(4096))
    (key,) = shell.document("lookup", inode, "0", "10M")["keys"]
    assert key["dirty"]
    assert "flash-only" in shell.refused("write", inode, "0", "--clean", given=noise(4096))
    assert shell.gave("read", inode, "0", "4k") == noise(4096)
    shell.told("volume", "delete", inode, "--force")


def test_what_the_daemon_refuses_is_one_line(shell: Shell) -> None:
    assert "no volume has inode 77" in shell.refused("write", "77", "0", given=b"x")
    assert "no volume has inode 77" in shell.refused("read", "77", "0", "8")
    assert "no volume has inode 77" in shell.refused("lookup", "77", "0", "8")
    assert "no volume has inode 77" in shell.refused("invalidate", "77", "0", "8")
    assert "expected a multiple of 8, the sectors of a block, found 1" in shell.refused(
        "write", "0", "1", given=b"x"
    )
    assert "expected a multiple of 8, the sectors of a block, found 3" in shell.refused("read", "0", "0", "3")
    assert "replicas" in shell.refused("write", "0", "0", "--replicas", "2", given=b"x")
