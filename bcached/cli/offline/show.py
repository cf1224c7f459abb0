# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl show`: a superblock in the format of bcache-super-show."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.paths import PATH
from bcached.device import FileDevice
from bcached.errors import BadMagic, FormatError
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.label import label_bytes, printable_label
from bcached.format.superblock import (
    COPY_SECTOR,
    FEATURE_INCOMPAT_BCACHED_SET,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    VERSION_FEATURES,
    Superblock,
)
from bcached.format.superblock_fields import BackingDevice
from bcached.format.superblock_seal import resealed
from bcached.units import SECTOR_BYTES

PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._")
CSUM_BYTES = 8
ANY_SIZE = 1 << 63  # the fields of a copy that was cut short are of interest, too


@dataclass(frozen=True, slots=True)
class Shown:
    """A superblock, its checksum as found and as it should be, and its sector.

    damage is that of the first one if this is its copy, else its own.
    """

    superblock: Superblock | BackingSuperblock
    csum: int
    expected_csum: int
    sector: int
    damage: str | None = None

    @property
    def identity(self) -> Iterator[str]:
        """Yields the first lines of bcache-super-show's output."""
        is_right = self.csum == self.expected_csum
        yield "sb.magic\t\tok"
        yield f"sb.first_sector\t\t{SUPERBLOCK_SECTOR} [match]"
        yield f"sb.csum\t\t\t{self.csum:X} [{'match' if is_right else f'expected {self.expected_csum:X}'}]"


@click.command
@click.argument("device", type=PATH)
@pass_options
def show(options: GlobalOptions, device: str) -> None:
    """Print the superblock of DEVICE, a cache or backing device, in the format of bcache-super-show.

    Works while a daemon runs on it. If it is damaged, print its copy, or its fields as they are, and what is
    wrong with it.

    With --json, print all its fields.
    """
    shown = asyncio.run(_read(device))
    if shown.damage is not None:
        click.echo(f"bcachectl: {shown.damage}; {_what_is_shown(shown)}", err=True)
    answer(options, _document(shown), lambda: "\n".join(_lines(shown)))


def _what_is_shown(shown: Shown) -> str:
    if shown.sector != SUPERBLOCK_SECTOR:
        return f"this is its copy at sector {shown.sector}"
    return "these are its fields as they are"


async def _read(path: str) -> Shown:
    """Returns the superblock; if that is damaged its copy, or without one its fields as they are.

    1. Sound. 2. Not bcache, or not any more. 3. Damaged, with a sound copy. 4. Damaged.
    """
    device = await FileDevice.open(path, writable=False, exclusive=False)
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except BadMagic:
        raise
    except FormatError as damage:
        try:
            copy = await _read_at(device, COPY_SECTOR)
            return replace(copy, damage=str(damage))
        except FormatError:
            return await _read_damaged(device, damage)
    finally:
        await device.close()


async def _read_at(device: FileDevice, sector: int) -> Shown:
    where = f"{device.path} sector {sector}"
    offset = sector * SECTOR_BYTES
    if device.size_bytes < offset + SUPERBLOCK_BYTES:
        raise BadMagic("superblock", where, "one", f"the device's end at byte {device.size_bytes}")
    raw = await device.read(offset, SUPERBLOCK_BYTES)
    csum = int.from_bytes(raw[:CSUM_BYTES], "little")
    found = _parsed(raw, device.size_bytes, device.logical_block_bytes, where)
    return Shown(found, csum, csum, sector)


async def _read_damaged(device: FileDevice, damage: FormatError) -> Shown:
    """Returns the fields as they are. Raises damage if they are no superblock's."""
    where = f"{device.path} sector {SUPERBLOCK_SECTOR}"
    raw = await device.read(SUPERBLOCK_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
    try:
        sealed = resealed(raw, where)
        found = _parsed(sealed, ANY_SIZE, SECTOR_BYTES, where)
    except FormatError:
        raise damage from None
    csum, expected_csum = (int.from_bytes(block[:CSUM_BYTES], "little") for block in (raw, sealed))
    return Shown(found, csum, expected_csum, SUPERBLOCK_SECTOR, str(damage))


def _parsed(
    raw: bytes, device_bytes: int, logical_block_bytes: int, where: str
) -> Superblock | BackingSuperblock:
    try:
        return Superblock.parse(
            raw, device_bytes=device_bytes, logical_block_bytes=logical_block_bytes, where=where
        )
    except BackingDevice as error:
        return BackingSuperblock.of(error.raw)


def _lines(shown: Shown) -> Iterator[str]:
    """Yields bcache-super-show's output, byte for byte; also for version 5, which it refuses."""
    superblock = shown.superblock
    yield from shown.identity
    if isinstance(superblock, BackingSuperblock):
        yield from _backing_lines(superblock)
    else:
        yield from _cache_lines(superblock)


def _cache_lines(superblock: Superblock) -> Iterator[str]:
    bucket = superblock.bucket_sectors
    yield f"sb.version\t\t{superblock.version} [cache device]"
    if superblock.version == VERSION_FEATURES:
        ours = " [bcached set]" if superblock.feature_incompat & FEATURE_INCOMPAT_BCACHED_SET else ""
        yield f"sb.feature_incompat\t{superblock.feature_incompat:X}{ours}"
    yield ""
    yield f"dev.label\t\t{_encoded(superblock.label) or '(empty)'}"
    yield f"dev.uuid\t\t{superblock.uuid}"
    yield f"dev.sectors_per_block\t{superblock.block_sectors}"
    yield f"dev.sectors_per_bucket\t{bucket}"
    yield f"dev.cache.first_sector\t{superblock.first_bucket * bucket}"
    yield f"dev.cache.cache_sectors\t{(superblock.bucket_count - superblock.first_bucket) * bucket}"
    yield f"dev.cache.total_sectors\t{superblock.bucket_count * bucket}"
    yield f"dev.cache.ordered\t{'yes' if superblock.synchronous else 'no'}"
    yield f"dev.cache.discard\t{'yes' if superblock.discard else 'no'}"
    yield f"dev.cache.pos\t\t{superblock.member}"
    if superblock.members > 1:
        yield f"dev.cache.members\t{superblock.members}"
    yield f"dev.cache.replacement\t{superblock.replacement.value} [{superblock.replacement.name.lower()}]"
    yield ""
    yield f"cset.uuid\t\t{superblock.set_uuid}"


def _backing_lines(backing: BackingSuperblock) -> Iterator[str]:
    yield f"sb.version\t\t{backing.version} [backing device]"
    yield ""
    yield f"dev.label\t\t{_encoded(backing.label) or '(empty)'}"
    yield f"dev.uuid\t\t{backing.uuid}"
    yield f"dev.sectors_per_block\t{backing.block_sectors}"
    yield f"dev.sectors_per_bucket\t{backing.bucket_sectors}"
    yield f"dev.data.first_sector\t{backing.data_sector}"
    mode = f" [{backing.cache_mode_name}]" if backing.cache_mode_name else ""
    yield f"dev.data.cache_mode\t{backing.cache_mode}{mode}"
    yield f"dev.data.cache_state\t{backing.state} [{backing.state_name}]"
    yield ""
    yield f"cset.uuid\t\t{backing.set_uuid}"


def _backing_document(backing: BackingSuperblock) -> dict[str, object]:
    return {
        "kind": "backing device",
        "version": backing.version,
        "uuid": str(backing.uuid),
        "set_uuid": str(backing.set_uuid),
        "label": printable_label(backing.label),
        "seq": backing.seq,
        "block_sectors": backing.block_sectors,
        "bucket_sectors": backing.bucket_sectors,
        "data_sector": backing.data_sector,
        "cache_mode": backing.cache_mode_name or backing.cache_mode,
        "state": backing.state_name,
    }


def _encoded(label: str) -> str:
    """Returns the label as the tool prints it, with bytes taken as signed: 0xc3 becomes %ffffffc3."""
    codes = (byte if byte < 0x80 else byte | 0xFFFFFF00 for byte in label_bytes(label))
    return "".join(chr(code) if code in PLAIN else f"%{code:x}" for code in codes)


def _document(shown: Shown) -> dict[str, object]:
    """Returns every field as a JSON document."""
    common = {"sector": shown.sector, "damage": shown.damage, "csum": f"{shown.csum:016x}"}
    if isinstance(shown.superblock, BackingSuperblock):
        return {**common, **_backing_document(shown.superblock)}
    return {**common, **superblock_document(shown.superblock)}


def superblock_document(superblock: Superblock) -> dict[str, object]:
    """Returns the superblock's fields as a JSON document."""
    return {
        "version": superblock.version,
        "uuid": str(superblock.uuid),
        "set_uuid": str(superblock.set_uuid),
        "label": printable_label(superblock.label),
        "synchronous": superblock.synchronous,
        "discard": superblock.discard,
        "replacement": superblock.replacement.name.lower(),
        "other_flags": superblock.other_flags,
        "seq": superblock.seq,
        "feature_compat": superblock.feature_compat,
        "feature_incompat": superblock.feature_incompat,
        "feature_ro_compat": superblock.feature_ro_compat,
        "bucket_count": superblock.bucket_count,
        "bucket_sectors": superblock.bucket_sectors,
        "block_sectors": superblock.block_sectors,
        "members": superblock.members,
        "member": superblock.member,
        "last_mount": superblock.last_mount,
        "first_bucket": superblock.first_bucket,
        "journal_buckets": superblock.journal_buckets,
    }
