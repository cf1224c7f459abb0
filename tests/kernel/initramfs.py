# SPDX-License-Identifier: GPL-2.0-only
"""An initramfs: a cpio archive in the "newc" form, the only one the kernel unpacks.

Each file is a header of 110 characters (magic and 13 numbers of 8 hex digits), its name with a closing
NUL, and its bytes; name and bytes are both padded so that the next part starts at a multiple of four.
A file named TRAILER!!! ends it. The kernel takes several archives one after the other, so what is the
same at each boot is built once and a scenario is put behind it.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the archive."""

    data: bytes
    mode: int = 0o644


def archive(files: Mapping[str, File]) -> bytes:
    """The archive of files by path; folders come before what is in them, or the kernel drops it."""
    parts = []
    inode = 1
    for folder in folders_of(files):
        parts.append(member(folder, stat.S_IFDIR | 0o755, b"", inode))
        inode += 1
    for path, file in files.items():
        parts.append(member(path, stat.S_IFREG | file.mode, file.data, inode))
        inode += 1
    parts.append(member(TRAILER, 0, b"", 0))
    return b"".join(parts)


def folders_of(files: Mapping[str, File]) -> list[str]:
    """Every folder on the way to a file, outermost first."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    return sorted(folders - {"."})


def member(path: str, mode: int, data: bytes, inode: int) -> bytes:
    """One file or folder with its header."""
    name = path.encode() + b"\0"
    numbers = {
        "inode": inode,
        "mode": mode,
        "user": 0,
        "group": 0,
        "links": 1,
        "modified": 0,
        "size": len(data),
        "device major": 0,
        "device minor": 0,
        "special major": 0,
        "special minor": 0,
        "name size": len(name),
        "check": 0,
    }
    header = MAGIC + b"".join(b"%08x" % value for value in numbers.values())
    return padded(header + name) + padded(data)


def padded(data: bytes) -> bytes:
    """The bytes with zeros behind them up to a multiple of four."""
    return data + bytes(-len(data) % 4)
