# SPDX-License-Identifier: GPL-2.0-only
"""What a check says to the owner of a set: dirty data, backing devices, the commands to type next."""

import shlex
from collections.abc import Iterator, Sequence

from bcached.cli.offline.reports.rescue_report import NAMES
from bcached.store.rescue.backing_check import CheckedBacking, dirty_sectors
from bcached.store.rescue.data_check import DataRead
from bcached.store.rescue.owner_check import OwnerCheck
from bcached.store.rescue.rescue import Rescue
from bcached.units import SECTOR_BYTES, format_size


def owner_lines(owner: OwnerCheck | None) -> Iterator[str]:
    """Yields each backing device, the dirty data of each volume, and what became of reading the data."""
    if owner is None:
        return
    yield from (_backing_line(backing) for backing in owner.backings)
    for inode, rescue in owner.rescues.items():
        yield f"dirty data of volume {inode}: {', '.join(_amounts(rescue)) or 'none'}"
    if owner.data is not None:
        yield from _data_lines(owner.data)


def _backing_line(backing: CheckedBacking) -> str:
    superblock = backing.superblock
    if superblock is None:
        return f"backing device {backing.path}: its superblock is damaged"
    mode = superblock.cache_mode_name or f"cache mode {superblock.cache_mode}"
    of = f"volume {backing.inode}" if backing.inode is not None else "no volume of this set"
    return (
        f"backing device {backing.path}: {of}, {superblock.state_name}, {mode}, data from sector "
        f"{superblock.data_sector} on, uuid {superblock.uuid}"
    )


def _amounts(rescue: Rescue) -> Iterator[str]:
    for confidence, name in NAMES.items():
        if sectors := rescue.totals.sectors[confidence]:
            yield f"{_size(sectors)} {name}"
    if sectors := rescue.lost.sectors.total():
        yield f"{_size(sectors)} unreadable"


def _data_lines(data: DataRead) -> Iterator[str]:
    unreadable = data.unreadable_dirty_sectors + data.unreadable_clean_sectors
    yield (
        f"data: {_size(data.dirty_sectors)} dirty and {_size(data.clean_sectors)} clean read, "
        f"{_size(unreadable)} in {data.unreadable_extents} extents unreadable"
    )
    if data.compared_sectors:
        yield (
            f"clean data: {_size(data.compared_sectors)} compared with the backing devices, "
            f"{_size(data.different_sectors)} in {data.different_extents} extents different"
        )


def next_commands(
    owner: OwnerCheck | None, caches: Sequence[str], map_options: Sequence[str] = ()
) -> list[str]:
    """Returns the commands to type next: a look at what can be written to each backing device."""
    return [
        shlex.join(
            [
                "bcachectl",
                "rescue",
                "-n",
                *caches,
                "--backing",
                backing.path,
                *options,
                *map_options,
            ]
        )
        for backing in (owner.backings if owner is not None else ())
        for options in _options(backing, owner)
    ]


def _options(backing: CheckedBacking, owner: OwnerCheck | None) -> Iterator[list[str]]:
    """Yields the options of rescue for the dirty data that is, or may be, a backing device's."""
    assert owner is not None
    if backing.dirty_sectors:
        yield []
    elif not any(backing.inode == other for other in owner.rescues if backing.inode is not None):
        for inode, rescue in owner.rescues.items():
            if _may_be_of(backing, inode, rescue):
                yield ["--volume", str(inode)]


def _may_be_of(backing: CheckedBacking, inode: int, rescue: Rescue) -> bool:
    """Whether a volume may be a backing device's: not if its entry has the uuid of another one."""
    volumes = rescue.extents.left.checked.volumes
    entry = volumes[inode] if inode < len(volumes) else None
    if entry is None or entry.is_burnt or backing.superblock is None:
        return True
    return entry.uuid == backing.superblock.uuid


def owner_document(owner: OwnerCheck | None) -> dict[str, object]:
    """Returns what a check adds to its document: nothing if only the set itself was to be checked."""
    if owner is None:
        return {}
    return {
        "dirty_data": [{"inode": inode, **_classes(rescue)} for inode, rescue in owner.rescues.items()],
        "backing": [_backing_document(backing) for backing in owner.backings],
        "data": None if owner.data is None else _data_document(owner.data),
    }


def _classes(rescue: Rescue) -> dict[str, object]:
    found = {
        name: {"extents": rescue.totals.extents[confidence], "sectors": rescue.totals.sectors[confidence]}
        for confidence, name in NAMES.items()
    }
    lost = {"extents": rescue.lost.extents.total(), "sectors": rescue.lost.sectors.total()}
    return {**found, "unreadable": lost}


def _backing_document(backing: CheckedBacking) -> dict[str, object]:
    superblock = backing.superblock
    if superblock is None:
        return {"path": backing.path, "uuid": None, "inode": None}
    return {
        "path": backing.path,
        "uuid": str(superblock.uuid),
        "set_uuid": str(superblock.set_uuid),
        "inode": backing.inode,
        "doubt": (backing.rescue.owner.doubt or None) if backing.rescue is not None else None,
        "state": superblock.state_name,
        "cache_mode": superblock.cache_mode_name,
        "data_sector": superblock.data_sector,
        "sectors": backing.device.size_bytes // SECTOR_BYTES,
        "dirty_sectors": dirty_sectors(backing.rescue) if backing.rescue is not None else None,
    }


def _data_document(data: DataRead) -> dict[str, object]:
    return {
        "dirty_sectors": data.dirty_sectors,
        "clean_sectors": data.clean_sectors,
        "unreadable": {
            "extents": data.unreadable_extents,
            "dirty_sectors": data.unreadable_dirty_sectors,
            "clean_sectors": data.unreadable_clean_sectors,
        },
        "compared_sectors": data.compared_sectors,
        "different": {"extents": data.different_extents, "sectors": data.different_sectors},
    }


def _size(sectors: int) -> str:
    return format_size(sectors * SECTOR_BYTES)
