# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl show`: a superblock in the format of bcache-super-show."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
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
from bcached.units import SECTOR_BYTES

PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._")
CSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """The superblock, its checksum as found, and its sector; damage is the first one's if this is a copy."""

    superblock: Superblock
    csum: int
    sector: int
    damage: str | None = None


@click.command
@click.argument("device")
@pass_options
def show(options: GlobalOptions, device: str) -> None:
    """Print the superblock of DEVICE, a cache or backing device, in the format of bcache-super-show.

    Works while a daemon runs on it.

    With --json, print all its fields.
    """
    try:
        shown = asyncio.run(_read(device))
    except BackingDevice as error:
        backing, csum = BackingSuperblock.of(error.raw), error.raw.csum
        answer(options, _backing_document(backing, csum), lambda: "\n".join(_backing_lines(backing, csum)))
        return
    if shown.damage is not None:
        click.echo(f"bcachectl: {shown.damage}; this is its copy at sector {shown.sector}", err=True)
    answer(options, _document(shown), lambda: "\n".join(_lines(shown)))


async def _read(path: str) -> Shown:
    device = await FileDevice.open(path, writable=False, exclusive=False)
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except (BadMagic, BackingDevice):
        raise  # not bcache, or not any more; or intact, and of another kind
    except FormatError as damage:
        try:
            shown = await _read_at(device, COPY_SECTOR)
        except FormatError:
            raise damage from None
        return Shown(shown.superblock, shown.csum, shown.sector, str(damage))
    finally:
        await device.close()


async def _read_at(device: FileDevice, sector: int) -> Shown:
    where = f"{device.path} sector {sector}"
    offset = sector * SECTOR_BYTES
    if device.size_bytes < offset + SUPERBLOCK_BYTES:
        raise BadMagic("superblock", where, "one", f"the device's end at byte {device.size_bytes}")
    raw = await device.read(offset, SUPERBLOCK_BYTES)
    superblock = Superblock.parse(
        raw,
        device_bytes=device.size_bytes,
        logical_block_bytes=device.logical_block_bytes,
        where=where,
    )
    return Shown(superblock, int.from_bytes(raw[:CSUM_BYTES], "little"), sector)


def _lines(shown: Shown) -> Iterator[str]:
    """Yields bcache-super-show's output, byte for byte; also for version 5, which it refuses."""
    superblock, bucket = shown.superblock, shown.superblock.bucket_sectors
    yield "sb.magic\t\tok"
    yield f"sb.first_sector\t\t{SUPERBLOCK_SECTOR} [match]"
    yield f"sb.csum\t\t\t{shown.csum:X} [match]"
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


def _backing_lines(backing: BackingSuperblock, csum: int) -> Iterator[str]:
    """Yields bcache-super-show's output for a backing device."""
    yield "sb.magic\t\tok"
    yield f"sb.first_sector\t\t{SUPERBLOCK_SECTOR} [match]"
    yield f"sb.csum\t\t\t{csum:X} [match]"
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


def _backing_document(backing: BackingSuperblock, csum: int) -> dict[str, object]:
    return {
        "sector": SUPERBLOCK_SECTOR,
        "csum": f"{csum:016x}",
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
    place = {"sector": shown.sector, "damage": shown.damage, "csum": f"{shown.csum:016x}"}
    return {**place, **superblock_document(shown.superblock)}


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
