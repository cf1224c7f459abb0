# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl show`: a superblock in the format of bcache-super-show."""

from collections.abc import Iterator

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import Failed
from bcached.cli.offline.devices import opened, partitions_told, warn_if_partitioned
from bcached.cli.offline.reports.next_commands import without_superblock
from bcached.cli.offline.reports.shown_superblock import ShownSuperblock, shown_superblock
from bcached.cli.paths import PATH
from bcached.errors import BcachedError
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.label import label_bytes, printable_label
from bcached.format.superblock import (
    COPY_SECTOR,
    FEATURE_INCOMPAT_BCACHED_SET,
    VERSION_FEATURES,
    Superblock,
)
from bcached.store.repair.layout_scan import LayoutFound, find_layout
from bcached.units import SECTOR_BYTES, format_size

PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._")
SCANNED_BYTES = 256 << 20  # for a journal, where there is no superblock: it is at the beginning


@click.command
@click.argument("device", type=PATH)
@pass_options
def show(options: GlobalOptions, device: str) -> None:
    """Print the superblock of DEVICE, a cache or backing device, in the format of bcache-super-show.

    Works while a daemon runs on it. If it is damaged or erased, print its copy, or its fields as they are,
    and what is wrong with it. If nothing of it is left, say what the journal tells of the set, and how to go
    on.

    With --json, print all its fields.
    """
    try:
        with partitions_told([device]):
            shown = run_interruptibly(_read(device))
    except _Gone as error:
        gone = error
        warn_if_partitioned([device])
        answer(options, gone.document, lambda: "\n".join(gone.lines))
        raise Failed(str(gone)) from None
    if shown.damage is not None:
        click.echo(f"bcachectl: {shown.damage}; {shown.what}", err=True)
    answer(options, _document(shown), lambda: "\n".join(_lines(shown)))


class _Gone(Exception):
    """There is no superblock, but a journal of a set."""

    def __init__(self, path: str, damage: BcachedError, layout: LayoutFound) -> None:
        super().__init__(f"{damage}; there is no copy of it at sector {COPY_SECTOR} either")
        self.path, self.layout = path, layout

    @property
    def lines(self) -> Iterator[str]:
        """Yields what is known of the set, and the commands to type next."""
        layout = self.layout
        bucket = format_size(layout.bucket_sectors * SECTOR_BYTES) if layout.bucket_sectors else "4M or more"
        yield f"journal entries of a cache set, up to entry {layout.newest_seq}, are there; they say:"
        yield f"  buckets of {bucket}, blocks of {format_size(layout.block_sectors * SECTOR_BYTES)}"
        yield f"  the set's uuid is {layout.set_uuid or f'{layout.uuid_half}-...'}"
        yield from (f"next: {command}" for command in without_superblock([self.path], layout))

    @property
    def document(self) -> dict[str, object]:
        """The same as a JSON document."""
        layout = self.layout
        return {
            "sector": None,
            "damage": str(self),
            "journal": {
                "seq": layout.newest_seq,
                "bucket_sectors": layout.bucket_sectors or None,
                "block_sectors": layout.block_sectors,
                "set_uuid": str(layout.set_uuid) if layout.set_uuid is not None else None,
                "set_uuid_begins": layout.uuid_half,
            },
            "next": without_superblock([self.path], layout),
        }


async def _read(path: str) -> ShownSuperblock:
    """Returns what is to be shown. Raises _Gone if only a journal is left, BcachedError without one."""
    async with opened([path]) as (device,):
        try:
            return await shown_superblock(device)
        except BcachedError as damage:
            layout = await find_layout(device, SCANNED_BYTES)
            if layout is None:
                raise
            raise _Gone(path, damage, layout) from damage


def _lines(shown: ShownSuperblock) -> Iterator[str]:
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


def _document(shown: ShownSuperblock) -> dict[str, object]:
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
