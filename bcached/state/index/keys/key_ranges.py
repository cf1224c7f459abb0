# SPDX-License-Identifier: GPL-2.0-only
"""The ranges and sizes of keys, and keys cut to a range."""

from collections.abc import Iterable, Sequence

from bcached.format.bkey import HEAD_WORDS
from bcached.keys import Key, Pointer

Span = tuple[int, int, int]  # inode, first sector, first sector behind


def spans_of(keys: Iterable[Key]) -> list[Span]:
    """Returns the ranges of keys."""
    return [(key.inode, key.offset, key.end) for key in keys]


def words_of(keys: Sequence[Key]) -> int:
    """Returns how many words keys take on disk."""
    return sum([HEAD_WORDS + len(key.pointers) for key in keys])


def cut_at(key: Key, sector: int) -> tuple[Key, Key | None]:
    """Returns a key's part before a sector and the part behind it; None if there is none."""
    skipped = sector - key.offset
    if skipped >= key.sectors:
        return key, None
    assert skipped > 0
    pointers = tuple([Pointer(p.device, p.sector + skipped, p.gen) for p in key.pointers])
    return (
        Key(key.inode, key.offset, skipped, key.dirty, key.pointers),
        Key(key.inode, sector, key.sectors - skipped, key.dirty, pointers),
    )


def cut_to(key: Key, piece: Key) -> Key:
    """Returns the part of a key that a piece of its range covers."""
    if piece.offset > key.offset:
        _, behind = cut_at(key, piece.offset)
        assert behind is not None
        key = behind
    return cut_at(key, piece.end)[0]
