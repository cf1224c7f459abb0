# SPDX-License-Identifier: GPL-2.0-only
"""Which volume of a set is a backing device's, and attaching one that is attached to none.

The order of attaching is the kernel's (bch_cached_dev_attach): the volume is durable before the backing
device's superblock names the set. From then on a start without the cache marks it stale, so what is in the
cache is never taken for the device's contents when it is not.
"""

from dataclasses import dataclass

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.format.backing_superblock import attached
from bcached.format.superblock import SUPERBLOCK_SECTOR
from bcached.runtime.cache_set import CacheSet
from bcached.store.check.checker import CheckedSet
from bcached.store.rescue.owner_of import BackingFound
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class BackingAttachment:
    """A backing device's volume: its inode, or None if it has to be attached first."""

    inode: int | None
    former: int | None = None  # a volume with its uuid whose keys no longer count


def find_attachment(
    checked: CheckedSet, found: BackingFound, path: str, *, attach: bool
) -> BackingAttachment:
    """Returns the backing device's volume. Raises SetRefused if what is in the cache could be wrong for it.

    1. Attached to this set. 2. Attached to none, and it may be attached. 3. To another set, or used without
    its cache.
    """
    backing, set_uuid = found.superblock, checked.members[0].superblock.set_uuid
    inode = _inode_of(checked, found)
    if backing.state_name in {"clean", "dirty"} and backing.set_uuid == set_uuid and inode is not None:
        return BackingAttachment(inode)
    if backing.state_name == "detached":
        if not attach:
            raise SetRefused(f"{path}: is attached to no cache set; --attach attaches it, which writes to it")
        if inode is not None and _dirty_sectors(checked, inode):
            raise SetRefused(
                f"{path}: is detached, and volume {inode}, which has its uuid, holds dirty data: "
                "`bcachectl rescue` says what is newer"
            )
        return BackingAttachment(None, inode)
    if backing.set_uuid != set_uuid:
        raise SetRefused(
            f"{path}: is attached to the set {backing.set_uuid}, not to {set_uuid}: let the kernel detach it"
        )
    raise SetRefused(
        f"{path}: expected a clean or dirty backing device with a volume in the set, found it "
        f"{backing.state_name}, {'with' if inode is not None else 'without'} one: it may have been used "
        "without its cache; let the kernel attach it again first"
    )


def _inode_of(checked: CheckedSet, found: BackingFound) -> int | None:
    for inode, entry in enumerate(checked.volumes):
        if entry is not None and entry.uuid == found.superblock.uuid:
            return inode
    return None


def _dirty_sectors(checked: CheckedSet, inode: int) -> int:
    volume = checked.totals.volumes.get(inode)
    return 0 if volume is None else volume.dirty_sectors


async def attach(
    cache_set: CacheSet, backing: BlockDevice, found: BackingFound, attachment: BackingAttachment
) -> int:
    """Make a volume for the backing device, then write its superblock. Returns the volume's inode.

    It gets the owner of a former volume of the device.
    """
    owner = None
    if attachment.former is not None:
        owner = cache_set.volumes.owners.get(attachment.former)
        await cache_set.volumes.delete(attachment.former)
    superblock = found.superblock
    inode = await cache_set.volumes.create(superblock.label, uuid=superblock.uuid, owner=owner)
    raw = attached(found.raw, cache_set.set_uuid)
    await backing.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)
    await backing.flush()
    return inode
