# SPDX-License-Identifier: GPL-2.0-only
"""Laying out a set: what goes on which device is planned first, then written, the superblocks last.

A layout of one device is what make-bcache makes, field by field: version 0, no valid journal yet; the first
run does the rest. A set of several is version 5 with the private feature that keeps kernels away.

Former bcache contents of the device must not become valid again: entries of an old journal with the same set
uuid would win over new ones, also those deep inside a bucket. So every journal bucket is completely zeroed,
and flushed, before there is a superblock that names it.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

from bcached.device.block_device import BlockDevice
from bcached.device.signatures import Signature
from bcached.errors import DeviceError, DeviceRefused
from bcached.format.sizes import MEMBERS_MAX
from bcached.format.superblock import (
    COPY_SECTOR,
    FEATURE_INCOMPAT_BCACHED_SET,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    VERSION_FEATURES,
    VERSION_FRESH,
    Superblock,
)
from bcached.set_state import Replacement
from bcached.state.buckets.geometry import Geometry
from bcached.store.geometry_limits import check_block, check_bucket, fit
from bcached.store.wiping import wipe_buckets
from bcached.units import SECTOR_BYTES

BUCKET_BYTES_DEFAULT = 512 << 10
HEAD_BYTES = COPY_SECTOR * SECTOR_BYTES + SUPERBLOCK_BYTES  # boot block, superblock and its copy


class Target(Protocol):
    """What a plan needs to know of a device; every BlockDevice has it."""

    @property
    def path(self) -> str:
        """What the device is called in messages."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def logical_block_bytes(self) -> int:
        """The smallest unit it can write."""


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One device of the layout."""

    path: str
    superblock: Superblock
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Layout:
    """A set that may be laid out: all checks have passed."""

    members: tuple[PlannedMember, ...]


def plan_set(
    targets: Sequence[Target],
    *,
    bucket_bytes: int = BUCKET_BYTES_DEFAULT,
    block_bytes: int | None = None,
    replacement: Replacement = Replacement.LRU,
    discard: bool = False,
    set_uuid: UUID | None = None,
) -> Layout:
    """Returns how these devices are laid out as one set. Raises DeviceRefused or GeometryRefused.

    Devices may differ in size. The block is by default the largest of their logical blocks.
    """
    if len(targets) > MEMBERS_MAX:
        reason = f"a set has at most {MEMBERS_MAX} devices, this one would be number {MEMBERS_MAX + 1}"
        raise DeviceRefused(targets[MEMBERS_MAX].path, reason)
    bucket_sectors = check_bucket(bucket_bytes)
    if block_bytes is None:
        block_bytes = max(target.logical_block_bytes for target in targets)
    set_uuid = set_uuid or uuid4()
    members = []
    for number, target in enumerate(targets):
        block_sectors = check_block(target.path, block_bytes, target.logical_block_bytes)
        geometry = fit(target.path, target.size_bytes, bucket_sectors, block_sectors)
        superblock = Superblock(
            uuid=uuid4(),
            set_uuid=set_uuid,
            version=VERSION_FRESH if len(targets) == 1 else VERSION_FEATURES,
            bucket_count=geometry.bucket_count,
            bucket_sectors=bucket_sectors,
            block_sectors=block_sectors,
            first_bucket=geometry.first_bucket,
            members=len(targets),
            member=number,
            discard=discard,
            replacement=replacement,
            feature_incompat=0 if len(targets) == 1 else FEATURE_INCOMPAT_BCACHED_SET,
        )
        members.append(PlannedMember(target.path, superblock, geometry))
    return Layout(tuple(members))


async def lay_out(layout: Layout, devices: Sequence[BlockDevice]) -> None:
    """Write the layout; the devices are those it was planned for, in that order.

    Power may fail at any moment: a device is then either what it was before, or is not bcache, or is a
    member laid out whole. Each step ends on all devices before the next begins on any.
    """
    assert [device.path for device in devices] == [member.path for member in layout.members]
    for device in devices:
        await device.write(0, bytes(HEAD_BYTES))
        await device.flush()
    for member, device in zip(layout.members, devices, strict=True):
        await wipe_buckets(device, member.geometry, member.geometry.journal_buckets)
    for member, device in zip(layout.members, devices, strict=True):
        await _write_superblock(member.superblock, device)


async def erase_signatures(device: BlockDevice, signatures: Iterable[Signature]) -> None:
    """Overwrite the blocks that hold the magic bytes of signatures, so that no program finds them again."""
    block = device.logical_block_bytes
    for signature in signatures:
        if signature.offset is None:
            continue  # libblkid is missing, and the blkid program does not say where
        begin = signature.offset // block * block
        end = -(-(signature.offset + signature.length) // block) * block
        await device.write(begin, bytes(end - begin))
    await device.flush()


def refuse_signatures(path: str, signatures: Sequence[Signature], option: str = "--force") -> None:
    """Refuse a device with signatures. The option is the one that erases them."""
    if signatures:
        raise DeviceRefused(
            path, f"has a signature already: {', '.join(map(str, signatures))}; {option} erases it"
        )


def refuse_duplicates(paths: Sequence[str]) -> None:
    """Refuse to use a device twice, also by another of its names."""
    seen: dict[object, str] = {}
    for path in paths:
        identity = _identity(path)
        if identity in seen:
            raise DeviceRefused(path, f"given twice, the first time as {seen[identity]}")
        seen[identity] = path


def _identity(path: str) -> object:
    """Returns an identity shared by all names of a file or block device; the path if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return path
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


async def _write_superblock(superblock: Superblock, device: BlockDevice) -> None:
    """Write the superblock, the last step, and check it by reading it back."""
    raw = superblock.pack()
    await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)
    await device.flush()
    if await device.read(SUPERBLOCK_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES) != raw:
        raise DeviceError(device.path, "the superblock read back is not the one that was written")
