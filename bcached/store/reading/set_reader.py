# SPDX-License-Identifier: GPL-2.0-only
"""Reading a set before anything on it is changed: superblocks, journal, prios, volumes.

An opening and a check both use it (finding.py says how they differ). Everything here only reads.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, GeometryRefused, SetRefused
from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import Pointer
from bcached.state.accounting.check_counts import Census, Use
from bcached.store.finding import Finding, OpeningReport, Report, Severity, finding_of, refuse_fatal
from bcached.store.journal.reader import JournalFound
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound, check_members, refuse_copies, refuse_older_copies
from bcached.store.prio_chain import PrioChain, follow_chain
from bcached.store.reading.journal_check import read_journal
from bcached.store.reading.location_checks import MetadataKeys, check_locations
from bcached.store.reading.superblock_check import find_superblock
from bcached.store.reading.volume_check import read_volumes


@dataclass(slots=True)
class Metadata:
    """What was found. A fresh set, and one without a valid journal, has superblocks only."""

    members: list[MemberFound] = field(default_factory=list)
    is_fresh: bool = False
    journal: JournalFound | None = None
    chains: list[list[tuple[int, PrioSet]]] = field(default_factory=list)  # by member: bucket and set
    censuses: list[Census] = field(default_factory=list)
    volumes: list[UuidEntry | None] = field(default_factory=list)
    metadata_keys: MetadataKeys = field(default_factory=MetadataKeys)
    metadata_pointers: list[tuple[Pointer, str]] = field(default_factory=list)  # of the uuid table


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a set that was in use."""

    journal: JournalFound
    chains: list[PrioChain]
    uuids: list[UuidEntry | None]
    censuses: list[Census]

    @property
    def newest(self) -> JournalEntry:
        """The journal entry that names the locations of all metadata."""
        return self.journal.newest


@dataclass(frozen=True, slots=True)
class SetFound:
    """The members, by their numbers, and their contents; None for a fresh set."""

    members: list[MemberFound]
    contents: Contents | None
    checksum_errors: Counter[str] = field(default_factory=Counter)  # by structure
    warnings: list[str] = field(default_factory=list)  # of what is lost by opening the set


async def read_set(devices: Sequence[BlockDevice]) -> SetFound:
    """Read a set to open it. Raises FormatError or SetRefused if anything is fatal; changes nothing."""
    report = OpeningReport()
    found = await read_metadata(devices, report)
    if found.is_fresh:
        return SetFound(found.members, None, report.checksum_errors)
    assert found.journal is not None, "a set without a readable journal was not refused"
    # What was read may be in the drive's cache only: a later power cut must not revert it.
    for member in found.members:
        await member.block_device.flush()
    chains = [
        PrioChain.of(placed, member.superblock.bucket_count)
        for placed, member in zip(found.chains, found.members, strict=True)
    ]
    contents = Contents(found.journal, chains, found.volumes, found.censuses)
    return SetFound(found.members, contents, report.checksum_errors, report.warnings)


async def read_metadata(
    devices: Sequence[BlockDevice], report: Report, *, thorough: bool = False
) -> Metadata:
    """Read all but the tree; thorough also reads what an opening does not use."""
    found = Metadata()
    for device in devices:
        superblock = await find_superblock(device, report, thorough=thorough)
        if superblock is not None:
            found.members.append(MemberFound(device, superblock))
    members = found.members
    members.sort(key=lambda member: member.superblock.member)
    if len(members) < len(devices) or not await _are_one_set(members, report):
        return found
    in_use = [member for member in members if member.superblock.synchronous]
    if len(in_use) < len(members):
        found.is_fresh = True
        await _refuse_to_start_over(members, in_use, report)
        return found
    found.journal = await read_journal(members, report, thorough=thorough)
    if found.journal.entries:
        _check_age(found, report)
        await read_prios(found, report)
        await read_locations(found, report)
    return found


async def _are_one_set(members: Sequence[MemberFound], report: Report) -> bool:
    try:
        await refuse_doubles(members)
    except SetRefused as error:
        report(finding_of(error, "set-members", Severity.FATAL, "nothing, once the right device is given"))
        return False
    if len({member.superblock.set_uuid for member in members}) == 1:
        for member in members:
            if member.superblock.members != len(members):
                raise SetRefused(
                    f"{member.path}: its set has {member.superblock.members} members, but {len(members)} "
                    "were given: give all of them together, to clone and resize the others by --with (if one "
                    "is gone for good: `bcachectl rescue` reads the others)"
                )
    try:
        check_members(members)
    except GeometryRefused as error:
        report(finding_of(error, "geometry", Severity.FATAL, "nothing: the kernel takes it"))
    except SetRefused as error:
        report(finding_of(error, "set-members", Severity.FATAL, "everything, until all members fit"))
        return False
    return True


async def refuse_doubles(members: Sequence[MemberFound]) -> None:
    """Refuse two devices that are one member, and say which is the older copy."""
    uuids = [member.superblock.uuid for member in members]
    if len(set(uuids)) == len(uuids):
        return
    newest_seqs: list[int | None] = []
    for member in members:
        try:
            journal = await read_journal([member], refuse_fatal)
        except BcachedError:
            newest_seqs.append(None)
        else:
            newest_seqs.append(journal.newest.seq)
    refuse_copies(members, newest_seqs)


def _check_age(found: Metadata, report: Report) -> None:
    """Report a member that is an older copy of itself."""
    assert found.journal is not None
    try:
        refuse_older_copies(found.members, [max(ring.newest_seqs, default=0) for ring in found.journal.rings])
    except SetRefused as error:
        lost = "what was written to the set since, until the current device is given"
        report(finding_of(error, "member-older", Severity.FATAL, lost))


async def _refuse_to_start_over(
    members: Sequence[MemberFound], in_use: Sequence[MemberFound], report: Report
) -> None:
    """Refuse a set of which only some members are synchronous, unless its first run was interrupted.

    The first run makes the members synchronous one after the other as its last step, when entry 1 is the
    only one; so no client was ever promised anything, and it may be repeated.
    """
    if not in_use:
        return
    journal = await read_journal(in_use, report)
    if journal.entries and (journal.newest.seq > 1 or journal.newest.keys):
        fresh = next(member for member in members if not member.superblock.synchronous)
        problem = (
            "is freshly made, or an older copy from before the first run, but the other members of its set "
            f"are in use (journal entry {journal.newest.seq})"
        )
        lost = "everything, until the current device is given"
        report(Finding("set-members", Severity.FATAL, "set", fresh.path, problem, lost))


async def read_prios(found: Metadata, report: Report) -> None:
    """Read the prio chain of each member, as far as it can be followed."""
    assert found.journal is not None
    for number, member in enumerate(found.members):
        geometry = geometry_of(member.superblock)
        gens = np.zeros(geometry.bucket_count, np.uint8)
        known = np.zeros(geometry.bucket_count, bool)
        chain: list[tuple[int, PrioSet]] = []
        head, set_magic = found.journal.newest.prio_heads[number], member.superblock.set_magic
        try:
            async for bucket, prio_set in follow_chain(member.block_device, geometry, head, set_magic):
                start = len(chain) * geometry.prios_per_bucket
                stop = min(start + geometry.prios_per_bucket, geometry.bucket_count)
                gens[start:stop] = prio_set.gens[: stop - start]
                known[start:stop] = True
                chain.append((bucket, prio_set))
        except BcachedError as error:
            first = len(chain) * geometry.prios_per_bucket
            lost = f"the gens of buckets {first} to {geometry.bucket_count - 1}"
            report(finding_of(error, "prio-chain", Severity.FATAL, lost))
        census = Census(geometry, gens, None if known.all() else known)
        for bucket, _ in chain:
            census.claim(bucket, Use.PRIO)
        found.chains.append(chain)
        found.censuses.append(census)


async def read_locations(found: Metadata, report: Report) -> None:
    """Check the locations of the uuid table and the root in the newest entry, and read the table."""
    assert found.journal is not None
    members, newest = found.members, found.journal.newest
    where = f"{members[0].path} journal entry {newest.seq}"
    found.metadata_keys = check_locations([member.superblock for member in members], newest, where, report)
    table = found.metadata_keys.uuid_bucket
    if table is not None:
        _claim_uuids(found, table.pointers[0], f"{where}, uuid_bucket", report)
        found.volumes = await read_volumes(members, newest, report)


def _claim_uuids(found: Metadata, pointer: Pointer, where: str, report: Report) -> None:
    census = found.censuses[pointer.device]
    bucket = census.geometry.bucket_of(pointer.sector)
    census.raise_gen(bucket, pointer.gen)
    found.metadata_pointers.append((pointer, where))
    used_for = census.claim(bucket, Use.UUID)
    if used_for != Use.FREE:
        problem = f"expected a bucket of its own, found {bucket}, used for {used_for.name.lower()}"
        report(Finding("bucket-shared", Severity.FATAL, "node key", where, problem, "all volumes"))
