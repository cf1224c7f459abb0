# SPDX-License-Identifier: GPL-2.0-only
"""The uuid table of a set. It has no checksum, so it is recognized by its contents.

Read strictly, since the bytes may be a client's: the bucket that an older journal entry names may have been
reused for data since. What neither bcached nor the kernel ever writes is refused.
"""

from collections import Counter
from collections.abc import Sequence

from bcached.errors import BcachedError
from bcached.format.jset import VERSION_OLD_UUIDS, JournalEntry
from bcached.format.label import printable_label
from bcached.format.sizes import uuid_slots
from bcached.format.uuid_entry import OLD_LAYOUT, UuidEntry, parse_table, slots_with_leftovers
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound
from bcached.store.uuid_table import VOLUME_SECTORS_MAX
from bcached.units import SECTOR_BYTES

STRUCTURE = "uuid table"


async def read_volumes(
    members: Sequence[MemberFound], newest: JournalEntry, report: Report
) -> list[UuidEntry | None]:
    """Returns the slots of the table that the newest entry names; none if it cannot be read."""
    pointer = newest.uuid_bucket.pointers[0]
    member = members[pointer.device]
    where = f"{member.path} sector {pointer.sector}"
    slots = uuid_slots(member.superblock.bucket_sectors)
    if not newest.uuid_bucket.sectors:
        problem = "expected a table, found a key of no sectors"
        report(Finding("volume-table", Severity.FATAL, STRUCTURE, where, problem, "all volumes"))
        return []
    try:
        raw = await member.block_device.read(
            pointer.sector * SECTOR_BYTES, newest.uuid_bucket.sectors * SECTOR_BYTES
        )
        if newest.version == VERSION_OLD_UUIDS:
            raw = raw[: slots * OLD_LAYOUT.size]
        entries = parse_table(raw, newest.version, where)
    except BcachedError as error:
        report(finding_of(error, "volume-table", Severity.FATAL, "all volumes"))
        return []
    if len(entries) != slots:
        problem = f"expected {slots} slots, found {len(entries)}"
        report(Finding("volume-table", Severity.FATAL, STRUCTURE, where, problem, "all volumes"))
    for slot in slots_with_leftovers(raw, newest.version):
        problem = "expected zeros in the unused bytes, found others: this is no uuid table"
        report(Finding("volume-slot", Severity.FATAL, STRUCTURE, f"{where}, slot {slot}", problem))
    _check_entries(entries, where, report)
    return entries


async def sound_slots(members: Sequence[MemberFound], newest: JournalEntry) -> dict[int, UuidEntry]:
    """Returns those slots of a table, which may be damaged, that bcached or the kernel may have written."""
    table = newest.uuid_bucket
    if not table.sectors or not table.pointers or table.pointers[0].device >= len(members):
        return {}
    pointer, found = newest.uuid_bucket.pointers[0], list[Finding]()
    try:
        entries = await read_volumes(members, newest, found.append)
        raw = await members[pointer.device].block_device.read(
            pointer.sector * SECTOR_BYTES, newest.uuid_bucket.sectors * SECTOR_BYTES
        )
    except BcachedError:
        return {}
    damaged = set(slots_with_leftovers(raw, newest.version)) if found else set()
    uuids = Counter(entry.uuid for entry in entries if entry is not None)
    sound = {}
    for slot, entry in enumerate(entries[: uuid_slots(members[0].superblock.bucket_sectors)]):
        if entry is None or slot in damaged or (uuids[entry.uuid] > 1 and not entry.is_burnt):
            continue
        wrong = list[Finding]()
        _check_fields(entry, "", wrong.append)
        if all(finding.severity < Severity.FATAL for finding in wrong):
            sound[slot] = entry
    return sound


def _check_entries(entries: Sequence[UuidEntry | None], where: str, report: Report) -> None:
    seen: dict[object, int] = {}
    for slot, entry in enumerate(entries):
        if entry is None:
            continue
        here = f"{where}, slot {slot} ({printable_label(entry.label) or entry.uuid})"
        _check_fields(entry, here, report)
        if entry.is_burnt:
            continue
        if entry.uuid in seen:
            problem = f"its uuid {entry.uuid} is that of slot {seen[entry.uuid]} too"
            report(Finding("volume-doubled", Severity.FATAL, STRUCTURE, here, problem))
        seen.setdefault(entry.uuid, slot)


def _check_fields(entry: UuidEntry, here: str, report: Report) -> None:
    """Check each field, given the others.

    1. No unknown flag. 2. Of a burnt slot nothing else. 3. No time of deletion. 4. A size if flash-only.
    """
    if entry.other_flags:
        problem = f"expected no flag but flash-only, found {entry.other_flags:#x} as well"
        report(Finding("volume-flags", Severity.FATAL, STRUCTURE, here, problem))
    if entry.is_burnt:
        return  # kernel: leaves the size of a flash-only volume behind
    if entry.invalidated:
        # Kernel: sets it only together with the uuid that marks a deleted volume.
        problem = f"expected no time of deletion, found {entry.invalidated}"
        report(Finding("volume-times", Severity.FATAL, STRUCTURE, here, problem))
    if entry.sectors and not entry.flash_only:
        problem = f"the volume is not flash-only and has {entry.sectors} sectors"
        report(Finding("volume-size", Severity.FATAL, STRUCTURE, here, problem))
    elif entry.flash_only and not entry.sectors:
        problem = "the volume is flash-only and has no sectors"  # kernel: creates one if requested
        report(Finding("volume-size", Severity.NOTE, STRUCTURE, here, problem))
    elif entry.sectors > VOLUME_SECTORS_MAX:
        problem = f"expected at most {VOLUME_SECTORS_MAX} sectors, found {entry.sectors}"
        report(Finding("volume-size", Severity.FATAL, STRUCTURE, here, problem))
