# SPDX-License-Identifier: GPL-2.0-only
"""Keys whose copies are one behind the other on a device, taken together.

A client that has leased a bucket commits from its front on, so the keys of a message nearly always are one
run, or two: it is compared with its bucket's gen, cut from what the client holds, and counted once.
"""

from collections.abc import Sequence

import msgspec

from bcached.format.bkey import CHECK_DEVICE
from bcached.keys import Key, Pointer

NOWHERE = (Pointer(CHECK_DEVICE, 0, 0),)


class SectorRun(msgspec.Struct, gc=False):
    """Sectors [start, end) of one bucket with one gen: a copy of keys [first, behind) of one volume."""

    device: int
    bucket: int
    gen: int
    start: int
    end: int
    dirty: bool
    inode: int
    first: int
    behind: int

    @property
    def bucket_id(self) -> tuple[int, int]:
        """The bucket."""
        return self.device, self.bucket


def sector_runs(keys: Sequence[Key], bucket_sectors: int) -> list[SectorRun]:
    """Returns the runs of these keys, in order.

    A key of several copies begins one for each; one without any is a run on no device.
    """
    # 1. One key of one copy, as most small commits.
    if len(keys) == 1 and len(keys[0].pointers) == 1:
        key, (pointer,) = keys[0], keys[0].pointers
        sector, size = pointer.sector, key.sectors
        bucket = sector // bucket_sectors
        return [
            SectorRun(pointer.device, bucket, pointer.gen, sector, sector + size, key.dirty, key.inode, 0, 1)
        ]
    runs: list[SectorRun] = []
    device = gen = behind = limit = inode = -1
    dirty = is_open = False
    for number, key in enumerate(keys):
        pointers = key.pointers
        if len(pointers) == 1:
            pointer = pointers[0]
            sector = pointer.sector
            end = sector + key.sectors
            # 2. It continues the open run.
            if (
                sector == behind
                and end <= limit
                and pointer.gen == gen
                and pointer.device == device
                and key.dirty == dirty
                and key.inode == inode
            ):
                behind = end
                continue
            # 3. It begins another one.
            if is_open:
                _close(runs[-1], behind, number)
            is_open = True
            device, gen, behind, dirty, inode = pointer.device, pointer.gen, end, key.dirty, key.inode
            bucket = sector // bucket_sectors
            limit = (bucket + 1) * bucket_sectors
            runs.append(SectorRun(device, bucket, gen, sector, end, dirty, inode, number, number + 1))
            continue
        # 4. Each copy is a run of its own.
        if is_open:
            _close(runs[-1], behind, number)
        is_open, behind = False, -1
        for it in pointers or NOWHERE:
            bucket, end = it.sector // bucket_sectors, it.sector + key.sectors
            runs.append(
                SectorRun(it.device, bucket, it.gen, it.sector, end, key.dirty, key.inode, number, number + 1)
            )
    if is_open:
        _close(runs[-1], behind, len(keys))
    return runs


def _close(run: SectorRun, end: int, behind: int) -> None:
    run.end, run.behind = end, behind
