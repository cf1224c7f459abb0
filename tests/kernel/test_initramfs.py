# SPDX-License-Identifier: GPL-2.0-only
"""The archive, read back by the rules of the newc form."""

import stat

from hypothesis import given
from hypothesis import strategies as st

from .initramfs import File, archive, folders_of


def read_back(data: bytes) -> list[tuple[str, int, bytes]]:
    """(path, mode, bytes) of each member up to the trailer, checking each alignment on the way."""
    at = 0
    found: list[tuple[str, int, bytes]] = []
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * place : at + 14 + 8 * place], 16) for place in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name_at = at + 110
        name = data[name_at : name_at + name_size]
        assert name.endswith(b"\0")
        data_at = name_at + name_size + -(name_at + name_size) % 4
        if name == b"TRAILER!!!\0":
            assert data_at == len(data)
            return found
        found.append((name[:-1].decode(), mode, data[data_at : data_at + size]))
        at = data_at + size + -(data_at + size) % 4


names = st.text("abcdefgh-.", min_size=1, max_size=9).filter(lambda name: name.strip("."))


@given(st.dictionaries(names, st.binary(max_size=20), max_size=5))
def test_what_goes_in_comes_out(contents: dict[str, bytes]) -> None:
    members = read_back(archive({name: File(data) for name, data in contents.items()}))
    assert {name: data for name, _, data in members} == contents


def test_folders_come_before_their_files() -> None:
    members = read_back(archive({"bin/deep/busybox": File(b"x", 0o755), "init": File(b"y")}))
    assert [(name, stat.S_ISDIR(mode)) for name, mode, _ in members] == [
        ("bin", True),
        ("bin/deep", True),
        ("bin/deep/busybox", False),
        ("init", False),
    ]


def test_the_mode_says_file_and_permissions() -> None:
    ((_, mode, _),) = read_back(archive({"init": File(b"", 0o755)}))
    assert mode == 0o100755


def test_inodes_differ_or_the_kernel_would_link_the_files() -> None:
    data = archive({"a": File(b"1"), "b": File(b"2"), "c/d": File(b"3")})
    inodes = [data[at + 6 : at + 14] for at in range(0, len(data), 4) if data[at : at + 6] == b"070701"]
    assert len(set(inodes)) == len(inodes)


def test_an_archive_can_be_put_behind_another() -> None:
    assert len(archive({"odd": File(b"12345")})) % 4 == 0


def test_the_top_is_no_folder_of_the_archive() -> None:
    assert folders_of({"a/b/c": File(b""), "d": File(b"")}) == ["a", "a/b"]
