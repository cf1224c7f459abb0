"""Who holds which sectors: what a connection was given and has neither committed nor released.

A holder keeps pieces: runs of device sectors inside one bucket, each worth one pin. Giving back part of a
piece leaves the rest; giving back its middle leaves two.
"""

from collections.abc import Sequence

import msgspec

from bcached.errors import NotReserved
from bcached.keys import Key

WHOLE_BUCKET_INODE = -1  # pieces made by AllocateBucket belong to no volume


class ExtentRequest(msgspec.Struct, frozen=True):
    """Sectors somebody asks for: where they belong, how many, and how they are to be placed.

    whole: all of them, as several keys if need be; otherwise one key, perhaps a shorter one. moving: for
    the moving garbage collector, from its reserve.
    """

    inode: int
    offset: int
    sectors: int
    write_point: int
    replicas: int = 1
    moving: bool = False
    whole: bool = False


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A run of reserved sectors of one bucket."""

    sectors: int
    inode: int


class PinChange(msgspec.Struct, frozen=True):
    """How many pins a bucket gains or loses."""

    device: int
    bucket: int
    pins: int


class Holder:
    """The reservations of one connection; `limit` is the most pieces it may hold.

    pieces maps (device, bucket) to the first sectors of runs held there.
    """

    __slots__ = ("bucket_sectors", "limit", "name", "pieces", "total")

    def __init__(self, name: str, limit: int, bucket_sectors: int) -> None:
        self.name = name
        self.limit = limit
        self.bucket_sectors = bucket_sectors
        self.pieces: dict[tuple[int, int], dict[int, Piece]] = {}
        self.total = 0

    def add(self, device: int, sector: int, sectors: int, inode: int) -> None:
        """Note a piece; its pin was taken by the caller."""
        place = (device, sector // self.bucket_sectors)
        runs = self.pieces.get(place)
        if runs is None:
            self.pieces[place] = {sector: Piece(sectors, inode)}
        else:
            runs[sector] = Piece(sectors, inode)
        self.total += 1

    def remove(self, keys: Sequence[Key]) -> list[PinChange]:
        """Give back the sectors of all these keys, or of none: NotReserved names the first not held."""
        changes: list[PinChange] = []
        undo: list[tuple[tuple[int, int], dict[int, Piece]]] = []
        for key in keys:
            for pointer in key.pointers:
                place = (pointer.device, pointer.sector // self.bucket_sectors)
                runs = self.pieces.get(place)
                if runs is None:
                    self._undo(undo)
                    raise NotReserved(key)
                undo.append((place, dict(runs)))
                pins = _cut(runs, pointer.sector, key.sectors)
                if pins is None:
                    self._undo(undo)
                    raise NotReserved(key)
                self.total += pins
                if not runs:
                    del self.pieces[place]
                changes.append(PinChange(*place, pins))
        return changes

    def covers(self, key: Key) -> bool:
        """Whether every sector of the key, on every device, is reserved here."""
        for pointer in key.pointers:
            runs = self.pieces.get((pointer.device, pointer.sector // self.bucket_sectors), {})
            if _run_of(runs, pointer.sector, key.sectors) is None:
                return False
        return bool(key.pointers)

    def split_off(self, inode: int) -> "Holder":
        """Move what was reserved for a volume to a holder of its own."""
        other = Holder(f"{self.name}, volume {inode}", self.limit, self.bucket_sectors)
        for place, runs in list(self.pieces.items()):
            for sector in [sector for sector, piece in runs.items() if piece.inode == inode]:
                piece = runs.pop(sector)
                other.add(place[0], sector, piece.sectors, inode)
                self.total -= 1
            if not runs:
                del self.pieces[place]
        return other

    def clear(self) -> dict[tuple[int, int], dict[int, Piece]]:
        """Forget everything; what it was."""
        pieces, self.pieces, self.total = self.pieces, {}, 0
        return pieces

    @property
    def sectors(self) -> int:
        """Sectors held, each copy counted."""
        return sum(piece.sectors for runs in self.pieces.values() for piece in runs.values())

    def _undo(self, undo: list[tuple[tuple[int, int], dict[int, Piece]]]) -> None:
        for place, runs in reversed(undo):
            self.total += len(runs) - len(self.pieces.get(place, {}))
            self.pieces[place] = runs


def _run_of(runs: dict[int, Piece], sector: int, sectors: int) -> int | None:
    """The first sector of the piece that holds all of [sector, sector + sectors)."""
    if sector in runs:
        return sector if sectors <= runs[sector].sectors else None
    for start, piece in runs.items():
        if start <= sector and sector + sectors <= start + piece.sectors:
            return start
    return None


def _cut(runs: dict[int, Piece], sector: int, sectors: int) -> int | None:
    """Cut a run out of a piece; by how many the number of pieces changed (-1, 0 or 1), None if not held."""
    start = _run_of(runs, sector, sectors)
    if start is None:
        return None
    piece = runs.pop(start)
    end = start + piece.sectors
    if start < sector:
        runs[start] = Piece(sector - start, piece.inode)
    if sector + sectors < end:
        runs[sector + sectors] = Piece(end - sector - sectors, piece.inode)
    return (start < sector) + (sector + sectors < end) - 1
