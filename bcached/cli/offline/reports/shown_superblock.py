# SPDX-License-Identifier: GPL-2.0-only
"""The superblock that `bcachectl show` prints: the device's own, its copy, or what is left of either."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bcached.device.block_device import BlockDevice
from bcached.errors import BadMagic, BcachedError, DeviceError, FormatError
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.format.superblock_fields import BackingDevice, NotWhole
from bcached.format.superblock_seal import MAGIC_OFFSET, resealed
from bcached.units import SECTOR_BYTES

CSUM_BYTES = 8
ANY_SIZE = 1 << 63  # the fields of a copy that was cut short are of interest, too


@dataclass(frozen=True, slots=True)
class ShownSuperblock:
    """A superblock, its checksum as found and as it should be, and its sector.

    damage is that of the first one if this is its copy, else its own.
    """

    superblock: Superblock | BackingSuperblock
    csum: int
    expected_csum: int
    sector: int
    damage: str | None = None
    is_magic_wrong: bool = False

    @property
    def identity(self) -> Iterator[str]:
        """Yields the first lines of bcache-super-show's output."""
        is_right = self.csum == self.expected_csum
        yield f"sb.magic\t\t{'bad magic' if self.is_magic_wrong else 'ok'}"
        yield f"sb.first_sector\t\t{SUPERBLOCK_SECTOR} [match]"
        yield f"sb.csum\t\t\t{self.csum:X} [{'match' if is_right else f'expected {self.expected_csum:X}'}]"

    @property
    def what(self) -> str:
        """Which one it is, if there is damage."""
        if self.sector != SUPERBLOCK_SECTOR:
            return f"this is its copy at sector {self.sector}"
        if self.is_magic_wrong and self.csum == self.expected_csum:
            return "only its magic was erased (wipefs does that): these are its fields"
        return "these are its fields as they are"


async def shown_superblock(device: BlockDevice) -> ShownSuperblock:
    """Returns the best superblock there is. Raises the first one's damage if none is left.

    1. Sound. 2. Sound but for its magic. 3. Damaged, unreadable or overwritten, with a copy. 4. Damaged.
    """
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except (FormatError, DeviceError) as error:
        damage = error
    left = await _read_damaged(device, damage)
    if left is not None and left.csum == left.expected_csum and left.is_magic_wrong:
        return left
    try:
        copy = await _read_at(device, COPY_SECTOR)
        return replace(copy, damage=str(damage))
    except BcachedError:
        if left is None or isinstance(damage, BadMagic):
            raise damage from None
        return left


async def _read_at(device: BlockDevice, sector: int) -> ShownSuperblock:
    where = f"{device.path} sector {sector}"
    offset = sector * SECTOR_BYTES
    if device.size_bytes < offset + SUPERBLOCK_BYTES:
        raise BadMagic("superblock", where, "one", f"the device's end at byte {device.size_bytes}")
    raw = await device.read(offset, SUPERBLOCK_BYTES)
    csum = int.from_bytes(raw[:CSUM_BYTES], "little")
    found = _parsed(raw, device.size_bytes, device.logical_block_bytes, where)
    return ShownSuperblock(found, csum, csum, sector)


async def _read_damaged(device: BlockDevice, damage: BcachedError) -> ShownSuperblock | None:
    """Returns the fields as they are; None if they are no superblock's, or cannot be read."""
    where = f"{device.path} sector {SUPERBLOCK_SECTOR}"
    try:
        raw = await device.read(SUPERBLOCK_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
        sealed = resealed(raw, where)
        found = _parsed(sealed, ANY_SIZE, SECTOR_BYTES, where)
    except (FormatError, DeviceError):
        return None
    csum, expected_csum = (int.from_bytes(block[:CSUM_BYTES], "little") for block in (raw, sealed))
    magic = raw[MAGIC_OFFSET : MAGIC_OFFSET + len(SUPERBLOCK_MAGIC)]
    is_wrong = magic != SUPERBLOCK_MAGIC and not isinstance(damage, NotWhole)
    return ShownSuperblock(found, csum, expected_csum, SUPERBLOCK_SECTOR, str(damage), is_wrong)


def _parsed(
    raw: bytes, device_bytes: int, logical_block_bytes: int, where: str
) -> Superblock | BackingSuperblock:
    try:
        return Superblock.parse(
            raw, device_bytes=device_bytes, logical_block_bytes=logical_block_bytes, where=where
        )
    except BackingDevice as error:
        return BackingSuperblock.of(error.raw)
