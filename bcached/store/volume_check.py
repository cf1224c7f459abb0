"""The uuid table of a set that may be damaged. It has no checksum, so its form must tell."""

from collections.abc import Sequence

from bcached.errors import BcachedError
from bcached.format.jset import VERSION_OLD_UUIDS, JournalEntry
from bcached.format.label import printable_label
from bcached.format.sizes import uuid_slots
from bcached.format.uuid_entry import OLD_LAYOUT, UuidEntry, parse_table, slots_with_leftovers
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES

STRUCTURE = "uuid table"


async def read_volumes(
    members: Sequence[MemberFound], newest: JournalEntry, report: Report
) -> list[UuidEntry | None]:
    """The slots of the table that the newest entry names; none if it cannot be read."""
    pointer = newest.uuid_bucket.pointers[0]
    member = members[pointer.device]
    where = f"{member.path} sector {pointer.sector}"
    slots = uuid_slots(member.superblock.bucket_sectors)
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
    if newest.version != VERSION_OLD_UUIDS:
        for slot in slots_with_leftovers(raw):
            problem = "bytes that are always zero are not: the slot is damaged"
            report(Finding("volume-slot", Severity.DAMAGE, STRUCTURE, f"{where}, slot {slot}", problem))
    _check_entries(entries, where, report)
    return entries


def _check_entries(entries: Sequence[UuidEntry | None], where: str, report: Report) -> None:
    seen: dict[object, int] = {}
    for slot, entry in enumerate(entries):
        if entry is None or entry.is_burnt:
            continue
        here = f"{where}, slot {slot} ({printable_label(entry.label) or entry.uuid})"
        if entry.uuid in seen:
            problem = f"its uuid {entry.uuid} is that of slot {seen[entry.uuid]} too"
            report(Finding("volume-doubled", Severity.DAMAGE, STRUCTURE, here, problem))
        seen.setdefault(entry.uuid, slot)
        if entry.flash_only != (entry.sectors > 0):
            kind = "flash-only" if entry.flash_only else "not flash-only"
            problem = f"the volume is {kind} and has {entry.sectors} sectors"
            report(Finding("volume-size", Severity.DAMAGE, STRUCTURE, here, problem))
