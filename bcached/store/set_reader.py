"""Reading a set before anything on it is touched: whether it is whole, sound, and one we can serve.

Everything here only reads. What it returns is checked through and through; `recovery` makes an open set
of it, and writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bcached.device.block_device import BlockDevice
from bcached.errors import BadField, BcachedError, SetRefused
from bcached.format.jset import JournalEntry
from bcached.format.sizes import uuid_slots
from bcached.format.uuid_entry import OLD_LAYOUT, UuidEntry, parse_table
from bcached.keys import Key
from bcached.store.journal_reader import JournalFound, read_journal
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound, check_members, refuse_copies, refuse_older_copies
from bcached.store.metadata_places import check_gens, check_places
from bcached.store.prio_chain import PrioChain, read_chain
from bcached.store.superblock_slot import read_superblock
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Contents:
    """What a set that was in use holds."""

    journal: JournalFound
    chains: list[PrioChain]
    uuids: list[UuidEntry | None]

    @property
    def newest(self) -> JournalEntry:
        """The journal entry that tells where all metadata is."""
        return self.journal.newest


@dataclass(frozen=True, slots=True)
class SetFound:
    """The members, by their numbers, and what they hold; a fresh set holds nothing."""

    members: list[MemberFound]
    contents: Contents | None


async def read_set(devices: Sequence[BlockDevice]) -> SetFound:
    """Read and check a set; FormatError or SetRefused say what is wrong, and nothing was changed."""
    members = [MemberFound(device, await read_superblock(device)) for device in devices]
    members.sort(key=lambda member: member.superblock.member)
    await refuse_doubles(members)
    check_members(members)
    if not await _was_in_use(members):
        return SetFound(members, None)
    journal = await read_journal([(member.block_device, member.superblock) for member in members])
    refuse_older_copies(members, [max(ring.newest_seqs) for ring in journal.rings])
    # What was read may still be in the drive's cache only: a power cut now must not take it back later.
    for member in members:
        await member.block_device.flush()
    newest, superblocks = journal.newest, [member.superblock for member in members]
    where = f"{members[0].path} journal entry {newest.seq}"
    check_places(superblocks, newest, where)
    chains = [
        await read_chain(
            member.block_device,
            geometry_of(member.superblock),
            newest.prio_heads[index],
            member.superblock.set_magic,
        )
        for index, member in enumerate(members)
    ]
    check_gens(superblocks, newest, chains, where)
    return SetFound(members, Contents(journal, chains, await _read_uuids(members, newest)))


async def refuse_doubles(members: Sequence[MemberFound]) -> None:
    """Refuse two devices that are one member, and tell which is the older one."""
    uuids = [member.superblock.uuid for member in members]
    if len(set(uuids)) == len(uuids):
        return
    newest_seqs: list[int | None] = []
    for member in members:
        try:
            journal = await read_journal([(member.block_device, member.superblock)])
        except BcachedError:
            newest_seqs.append(None)
        else:
            newest_seqs.append(journal.newest.seq)
    refuse_copies(members, newest_seqs)


async def _was_in_use(members: list[MemberFound]) -> bool:
    """Whether the journal is to be trusted. It may be so on some members only if the first run broke off.

    The first run turns the members synchronous one after the other as its last act, when entry 1 is the
    only one there is; so nothing was ever promised to anybody, and it may simply be done again.
    """
    in_use = [member for member in members if member.superblock.synchronous]
    if not in_use or len(in_use) == len(members):
        return bool(in_use)
    journal = await read_journal([(member.block_device, member.superblock) for member in in_use])
    if journal.newest.seq > 1 or journal.newest.keys:
        fresh = next(member for member in members if not member.superblock.synchronous)
        raise SetRefused(
            f"{fresh.block_device.path}: is freshly made, or an older copy of before the first run, but the "
            f"other members of its set are in use (journal entry {journal.newest.seq})"
        )
    return False


async def _read_at(members: list[MemberFound], key: Key) -> bytes:
    pointer = key.pointers[0]
    device = members[pointer.device].block_device
    return await device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)


async def _read_uuids(members: list[MemberFound], newest: JournalEntry) -> list[UuidEntry | None]:
    slots = uuid_slots(members[0].superblock.bucket_sectors)
    raw = await _read_at(members, newest.uuid_bucket)
    where = f"{members[0].block_device.path} uuid table"
    if newest.version == 0:
        raw = raw[: slots * OLD_LAYOUT.size]
    entries = parse_table(raw, newest.version, where)
    if len(entries) != slots:
        raise BadField("uuid table", where, f"{slots} slots", len(entries))
    return entries
