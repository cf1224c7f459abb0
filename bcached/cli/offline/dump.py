# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl dump`: every structure on a set's devices, as JSON lines."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import click

from bcached.cli.examples import examples
from bcached.cli.interruption import run_interruptibly
from bcached.cli.json_text import json_line
from bcached.cli.offline.copy_map import MAP, CopyMaps, read_maps
from bcached.cli.offline.devices import opened, warn_if_used
from bcached.cli.offline.reports.finding_document import finding_document
from bcached.cli.offline.show import superblock_document
from bcached.cli.paths import PATH
from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, SetRefused
from bcached.format.label import printable_label
from bcached.format.superblock import SUPERBLOCK_SECTOR
from bcached.keys import Pointer
from bcached.state.accounting.check_counts import Use
from bcached.state.buckets.bucket_table import Mark
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet, read_metadata, read_tree
from bcached.store.patched_device import Patch, patched_devices
from bcached.store.rescue.remains.members_left import read_members_left
from bcached.units import SECTOR_BYTES

Document = dict[str, object]
Emit = Callable[[str, Document], None]
LINES_AT_ONCE = 500
MARKS = {Mark.NONE: "none", Mark.RECLAIMABLE: "clean", Mark.DIRTY: "dirty", Mark.METADATA: "metadata"}
TYPES = ("superblock", "journal_entry", "prio_set", "node", "key", "volume", "bucket", "finding")


@click.command(
    epilog=examples(
        "bcachectl dump cache.img > everything.jsonl",
        "bcachectl dump --only key /dev/sdx | jq -c 'select(.live and .dirty)'",
        "bcachectl dump --only bucket cache.img | jq -s 'group_by(.use) | map([.[0].use, length])'",
    )
)
@click.argument("devices", metavar="DEVICE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--only",
    metavar="TYPE",
    type=click.Choice(TYPES),
    multiple=True,
    help="Only lines of this type; may be repeated.",
)
@MAP
def dump(devices: tuple[str, ...], only: tuple[str, ...], maps: tuple[str, ...]) -> None:
    """Every structure on DEVICE as JSON lines, as far as it can be read; nothing is changed.

    The type of a line is superblock, journal_entry, prio_set, node, key (of the index, merged with the
    journal's), volume, bucket, or finding for an error. Name all devices of a set.
    """
    warn_if_used(devices)
    chosen = set(only or TYPES)
    lines: list[bytes] = []

    def print_lines() -> None:
        if lines:
            click.echo(b"\n".join(lines))  # one write for several lines
            lines.clear()

    def emit(kind: str, document: Document) -> None:
        if kind in chosen:
            lines.append(json_line({"type": kind, **document}))
            if len(lines) == LINES_AT_ONCE:
                print_lines()

    try:
        run_interruptibly(_dump(devices, read_maps(maps, devices), emit))
    finally:
        print_lines()


async def _dump(paths: Sequence[str], copy_maps: CopyMaps, emit: Emit) -> None:
    async with opened(paths) as opened_devices:
        devices, _ = copy_maps.applied(opened_devices)
        checked = await _read(devices)
        for kind, documents in _metadata(checked).items():
            for document in documents:
                emit(kind, document)
        async for node in read_tree(checked):
            emit("node", _node(node))
    for kind, documents in _contents(checked).items():
        for document in documents:
            emit(kind, document)


async def _read(devices: Sequence[BlockDevice]) -> CheckedSet:
    """Returns the set, by what is left of damaged superblocks if need be. Raises SetRefused without any."""
    checked = await read_metadata(devices)
    if len(checked.members) == len(devices):
        return checked
    (damage, *_) = checked.findings.listed
    patches = []
    try:
        for number, member in enumerate(await read_members_left(devices, None, lambda _: None)):
            superblock = member.found.superblock
            patches.append(Patch(number, SUPERBLOCK_SECTOR * SECTOR_BYTES, superblock.pack()))
    except BcachedError:
        raise SetRefused(str(damage)) from None
    checked = await read_metadata(patched_devices(devices, patches))
    if len(checked.members) < len(devices):
        raise SetRefused(str(damage))
    checked.findings.report(damage)
    return checked


def _metadata(checked: CheckedSet) -> dict[str, Iterator[Document]]:
    """Returns the documents that are known before the btree is read."""
    return {
        "superblock": (
            {"path": member.path, **superblock_document(member.superblock)} for member in checked.members
        ),
        "journal_entry": _journal_entries(checked),
        "prio_set": _prio_sets(checked),
    }


def _contents(checked: CheckedSet) -> dict[str, Iterator[Document]]:
    """Returns the documents that need the btree."""
    return {
        "key": _keys(checked),
        "volume": _volumes(checked),
        "bucket": _buckets(checked),
        "finding": (finding_document(finding) for finding in checked.findings.listed),
    }


def _prio_sets(checked: CheckedSet) -> Iterator[Document]:
    for device, chain in enumerate(checked.chains):
        for index, (bucket, prio_set) in enumerate(chain):
            location: Document = {"device": device, "bucket": bucket, "index": index}
            yield {**location, "seq": prio_set.seq, "next_bucket": prio_set.next_bucket}


def _journal_entries(checked: CheckedSet) -> Iterator[Document]:
    if checked.journal is None:
        return
    replayed = {entry.seq for entry in checked.journal.entries}
    for bucket, found in checked.journal.placed():
        entry = found.entry
        yield {
            "device": bucket.member,
            "bucket": bucket.bucket,
            "byte": found.offset_bytes,
            "blocks": found.blocks,
            "seq": entry.seq,
            "last_seq": entry.last_seq,
            "version": entry.version,
            "replayed": entry.seq in replayed,
            "uuid_bucket": entry.uuid_bucket,
            "btree_root": entry.root,
            "btree_level": entry.level,
            "prio_buckets": entry.prio_heads,
            "keys": entry.keys,
        }


def _node(node: NodeFound) -> Document:
    return {
        "level": node.level,
        "key": node.key,
        "first": node.low,
        "last": node.high,
        "damage": None if node.damage is None else str(node.damage),
        "torn": node.is_torn,
        "bsets": [
            {
                "byte": found.offset_bytes,
                "blocks": found.blocks,
                "seq": f"{found.bset.seq:016x}",
                "version": found.bset.version,
                "keys": found.bset.keys,
            }
            for found in node.bsets
        ],
    }


def _keys(checked: CheckedSet) -> Iterator[Document]:
    """Yields the keys of the index; each pointer with the number of gens by which it is stale."""
    if checked.tree is None:
        return
    for rows in checked.tree.rows.chunks():
        for _, copies in groupby(zip(rows.keys.tolist(), rows, strict=True), key=lambda row: row[0]):
            keys = [key for _, key in copies]
            pointers = [_pointer(checked, key.pointers[0]) for key in keys]
            yield {
                "inode": keys[0].inode,
                "offset": keys[0].offset,
                "sectors": keys[0].sectors,
                "dirty": keys[0].dirty,
                "live": any(pointer["stale_by"] == 0 for pointer in pointers),
                "pointers": pointers,
            }


def _pointer(checked: CheckedSet, pointer: Pointer) -> Document:
    location: Document = {"device": pointer.device, "sector": pointer.sector, "gen": pointer.gen}
    return {**location, "stale_by": checked.staleness(pointer)}


def _volumes(checked: CheckedSet) -> Iterator[Document]:
    for inode, volume in enumerate(checked.volumes):
        if volume is not None:
            yield {
                "inode": inode,
                "uuid": str(volume.uuid),
                "label": printable_label(volume.label),
                "first_reg": volume.first_reg,
                "last_reg": volume.last_reg,
                "invalidated": volume.invalidated,
                "flash_only": volume.flash_only,
                "sectors": volume.sectors,
                "burnt": volume.is_burnt,
                "owner": None if volume.owner is None else str(volume.owner),
                "maker": volume.maker,
            }


def _buckets(checked: CheckedSet) -> Iterator[Document]:
    """Yields every bucket of every member: its use, prio, gens and live sectors."""
    for device, (census, chain) in enumerate(zip(checked.censuses, checked.chains, strict=True)):
        prios = [prio for _, prio_set in chain for prio in prio_set.prios.tolist()]
        columns = (census.uses, census.gens, census.gens_on_disk, census.oldest, census.marks)
        totals = (census.sectors, census.dirty_sectors)
        rows = zip(*(column.tolist() for column in (*columns, *totals)), strict=True)
        for bucket, (use, gen, gen_on_disk, oldest, mark, sectors, dirty_sectors) in enumerate(rows):
            yield {
                "device": device,
                "bucket": bucket,
                "use": Use(use).name.lower(),
                "prio": prios[bucket] if bucket < len(prios) else None,
                "gen": gen,
                "gen_on_disk": gen_on_disk,
                "oldest_gen": oldest,
                "mark": MARKS[mark],
                "sectors": sectors,
                "dirty_sectors": dirty_sectors,
            }
