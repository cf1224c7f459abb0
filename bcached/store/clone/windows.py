# SPDX-License-Identifier: GPL-2.0-only
"""Live areas that are near each other, to be read at once with what is between them.

A transfer costs as much time as some ten thousand bytes in a longer one, and extents are often scattered.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

READ_GAP_BYTES = 32 << 10  # read for nothing between two areas, at most
WRITE_GAP_BYTES = 8 << 10  # written as it is there already; an image gets no larger holes filled
WINDOW_BYTES = 1 << 20

Piece = tuple[int, int]  # byte and length


@dataclass(frozen=True, slots=True)
class PieceWindow:
    """Pieces in order, none of them overlapping."""

    pieces: Sequence[Piece]

    @property
    def byte(self) -> int:
        """Where it begins."""
        return self.pieces[0][0]

    @property
    def length(self) -> int:
        """Bytes from the first piece to the end of the last."""
        return sum(self.pieces[-1]) - self.byte

    @property
    def live_bytes(self) -> int:
        """Bytes of the pieces."""
        return sum(length for _, length in self.pieces)

    def each(self) -> Iterator["PieceWindow"]:
        """Yields the pieces as windows of their own."""
        return (PieceWindow([piece]) for piece in self.pieces)

    def cut(self, piece: Piece, data: bytes) -> bytes:
        """Returns the piece's part of the window's data."""
        at = piece[0] - self.byte
        return data[at : at + piece[1]]

    def differing(self, data: bytes, there: bytes) -> list[Piece]:
        """Returns the pieces that are not the same in two contents of the window."""
        if data == there:
            return []
        return [piece for piece in self.pieces if self.cut(piece, data) != self.cut(piece, there)]


def windows(pieces: Iterable[Piece], gap_bytes: int = READ_GAP_BYTES) -> Iterator[PieceWindow]:
    """Yields the pieces grouped, no gap in a group being longer than gap_bytes."""
    group: list[Piece] = []
    for byte, length in pieces:
        if group and not (byte - sum(group[-1]) <= gap_bytes and byte + length - group[0][0] <= WINDOW_BYTES):
            yield PieceWindow(group)
            group = []
        group.append((byte, length))
    if group:
        yield PieceWindow(group)


def writes(
    window: PieceWindow, different: Iterable[Piece], data: bytes, there: bytes, gap_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """Yields byte and data of the writes that put data's pieces in the place of those that are there.

    What is between two pieces of one write, at most gap_bytes, stays as it is there.
    """
    for run in windows(different, gap_bytes):
        wanted = bytearray(window.cut((run.byte, run.length), there))
        for byte, length in run.pieces:
            at = byte - run.byte
            wanted[at : at + length] = window.cut((byte, length), data)
        yield run.byte, bytes(wanted)
