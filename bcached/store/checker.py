"""Everything a set holds, read and checked, and nothing changed; damage is told and never stops it.

It goes from the superblocks to the journal, from there to prios, volumes and the tree, and looks last at what
concerns all of it: gens, buckets used twice, extents that overlap.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BadField, BcachedError, FormatError, GeometryRefused, SetRefused
from bcached.format.bkey import INODE_MAX, OFFSET_MAX, Bounds, check_extent, check_node_key
from bcached.format.prio_set import PrioSet
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import Key, Pointer
from bcached.state.census import Census, Use, stale_by
from bcached.state.extents import Extents
from bcached.store.finding import Finding, Findings, Severity, finding_of
from bcached.store.journal_scan import JournalScan, scan_journal
from bcached.store.key_check import KeyCheck, KeyTotals, report_homeless
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound, check_members, refuse_older_copies
from bcached.store.node_reader import NodeFound
from bcached.store.prio_chain import follow_chain
from bcached.store.set_reader import refuse_doubles
from bcached.store.superblock_check import find_superblock
from bcached.store.tree_reader import TreeReader
from bcached.store.volume_check import read_volumes

ROOT_POSITION = (INODE_MAX, OFFSET_MAX)


@dataclass(slots=True)
class CheckedSet:
    """What was found. Of a fresh set, and of one whose journal is gone, the superblocks are all there is."""

    findings: Findings = field(default_factory=Findings)
    members: list[MemberFound] = field(default_factory=list)
    is_fresh: bool = False
    journal: JournalScan | None = None
    chains: list[list[tuple[int, PrioSet]]] = field(default_factory=list)  # by member: bucket and set
    censuses: list[Census] = field(default_factory=list)
    volumes: list[UuidEntry | None] = field(default_factory=list)
    bygone: list[Key] = field(default_factory=list)  # keys of the journal below later ones of it
    replayed: Extents = field(default_factory=lambda: Extents(keep_deletions=True))
    uuid_places: list[tuple[Pointer, str]] = field(default_factory=list)
    tree: TreeReader | None = None
    totals: KeyTotals = field(default_factory=KeyTotals)

    def staleness(self, pointer: Pointer) -> int | None:
        """By how many gens a pointer is stale; None if it points to no member. To be asked after the tree."""
        if pointer.device >= len(self.censuses):
            return None
        census = self.censuses[pointer.device]
        return stale_by(int(census.gens[census.geometry.bucket_of(pointer.sector)]), pointer.gen)


async def check_set(devices: Sequence[BlockDevice]) -> CheckedSet:
    """Check everything; SetRefused if these are not all the members of their set."""
    checked = await read_metadata(devices)
    async for _ in read_tree(checked):
        pass
    return checked


async def read_metadata(devices: Sequence[BlockDevice]) -> CheckedSet:
    """All but the tree."""
    checked = CheckedSet()
    report = checked.findings.report
    for device in devices:
        superblock = await find_superblock(device, report)
        if superblock is not None:
            checked.members.append(MemberFound(device, superblock))
    checked.members.sort(key=lambda member: member.superblock.member)
    if len(checked.members) < len(devices) or not await _are_one_set(checked):
        return checked
    if not await _is_in_use(checked):
        return checked
    checked.journal = await scan_journal(checked.members, report)
    if not checked.journal.entries:
        return checked
    _check_age(checked)
    await _read_prios(checked)
    _replay(checked)
    if _place(checked, "uuid_bucket", checked.journal.newest.uuid_bucket):
        _claim_uuids(checked)
        checked.volumes = await read_volumes(checked.members, checked.journal.newest, report)
    return checked


async def read_tree(checked: CheckedSet) -> AsyncIterator[NodeFound]:
    """The tree, node by node, and then the verdict on all its keys."""
    if checked.journal is None or not checked.journal.entries:
        return
    newest, report = checked.journal.newest, checked.findings.report
    bounds = _bounds(checked)
    checked.tree = TreeReader(checked.members, checked.censuses, bounds, checked.replayed, report)
    if _place(checked, "btree_root", newest.root):
        found = (newest.root.inode, newest.root.end)
        if found != ROOT_POSITION:
            problem = f"expected the root at {ROOT_POSITION}, the end of all keys, found {found}"
            finding = Finding("root-position", Severity.DAMAGE, "journal", _newest_where(checked), problem)
            report(finding)
        async for node in checked.tree.nodes(newest.root, newest.level):
            yield node
    else:
        checked.tree.rows.add(checked.replayed)
    keys = KeyCheck(checked.members, checked.censuses, checked.tree.rows, report)
    for key in (*checked.bygone, *checked.tree.bygone):
        keys.add_bygone(key)
    for key in checked.tree.node_keys:
        keys.add_node_key(key)
    keys.raise_gens()
    keys.check_places([*checked.uuid_places, *checked.tree.places])
    checked.totals = keys.judge()
    if checked.volumes:
        report_homeless(checked.totals, checked.volumes, checked.members[0].path, report)


async def _are_one_set(checked: CheckedSet) -> bool:
    members, report = checked.members, checked.findings.report
    try:
        await refuse_doubles(members)
    except SetRefused as error:
        report(finding_of(error, "set-members", Severity.FATAL, "nothing, once the right one is given"))
        return False
    for member in members:
        if member.superblock.members != len(members):
            raise SetRefused(
                f"{member.path}: its set has {member.superblock.members} members, and {len(members)} were "
                "given: only all of them together can be checked"
            )
    try:
        check_members(members)
    except GeometryRefused as error:
        report(finding_of(error, "geometry", Severity.NOTE))  # too small for us; the kernel takes it
    except SetRefused as error:
        report(finding_of(error, "set-members", Severity.FATAL, "everything, until all members fit"))
        return False
    return True


def _check_age(checked: CheckedSet) -> None:
    """Report a member that is an older copy of itself."""
    assert checked.journal is not None
    newest_seqs = [0] * len(checked.members)
    for bucket, placed in checked.journal.placed():
        newest_seqs[bucket.member] = max(newest_seqs[bucket.member], placed.entry.seq)
    try:
        refuse_older_copies(checked.members, newest_seqs)
    except SetRefused as error:
        lost = "what was written to the set since, until the right one is given"
        checked.findings.report(finding_of(error, "member-older", Severity.FATAL, lost))


async def _is_in_use(checked: CheckedSet) -> bool:
    """Whether there is a journal to be trusted; the first run turns the members synchronous one by one."""
    members = checked.members
    in_use = [member for member in members if member.superblock.synchronous]
    checked.is_fresh = len(in_use) < len(members)
    if not checked.is_fresh or not in_use:
        return bool(in_use)
    scan = await scan_journal(in_use, checked.findings.report)
    if scan.entries and (scan.newest.seq > 1 or scan.newest.keys):
        fresh = next(member for member in members if not member.superblock.synchronous)
        problem = (
            "it is freshly made, or an older copy of before the first run, and the others are in use "
            f"(journal entry {scan.newest.seq})"
        )
        lost = "everything, until it is the right one"
        checked.findings.report(Finding("set-members", Severity.FATAL, "set", fresh.path, problem, lost))
    return False


async def _read_prios(checked: CheckedSet) -> None:
    """The chain of each member, as far as it can be followed."""
    assert checked.journal is not None
    for number, member in enumerate(checked.members):
        geometry = geometry_of(member.superblock)
        gens = np.zeros(geometry.bucket_count, np.uint8)
        known = np.zeros(geometry.bucket_count, bool)
        chain: list[tuple[int, PrioSet]] = []
        head = checked.journal.newest.prio_heads[number]
        try:
            async for bucket, prio_set in follow_chain(
                member.block_device, geometry, head, member.superblock.set_magic
            ):
                start = len(chain) * geometry.prios_per_bucket
                stop = min(start + geometry.prios_per_bucket, geometry.bucket_count)
                gens[start:stop] = prio_set.gens[: stop - start]
                known[start:stop] = True
                chain.append((bucket, prio_set))
        except BcachedError as error:
            lost = (
                f"the gens of buckets {len(chain) * geometry.prios_per_bucket} to {geometry.bucket_count - 1}"
            )
            checked.findings.report(finding_of(error, "prio-chain", Severity.FATAL, lost))
        census = Census(geometry, gens, None if known.all() else known)
        for bucket, _ in chain:
            census.claim(bucket, Use.PRIO)
        checked.chains.append(chain)
        checked.censuses.append(census)


def _replay(checked: CheckedSet) -> None:
    """Lay the journal's keys over each other, in order; what they make of the tree is the same."""
    assert checked.journal is not None
    bounds = _bounds(checked)
    for entry in checked.journal.entries:
        for number, key in enumerate(entry.keys):
            where = f"{checked.members[0].path} journal entry {entry.seq}, key {number}"
            try:
                check_extent(key, bounds, where)
            except FormatError as error:
                lost = f"{key.sectors} sectors"
                checked.findings.report(finding_of(error, "key-invalid", Severity.FATAL, lost))
            else:
                checked.bygone += checked.replayed.insert(key)


def _place(checked: CheckedSet, name: str, key: Key) -> bool:
    """Whether the newest entry's key can be that of a node."""
    where = f"{_newest_where(checked)}, {name}"
    try:
        check_node_key(key, _bounds(checked), where)
        if len(key.pointers) != 1:
            raise BadField("node key", f"{where}, pointers", 1, len(key.pointers))
    except FormatError as error:
        lost = "all volumes" if name == "uuid_bucket" else "all keys that are not in the journal"
        checked.findings.report(finding_of(error, name.replace("_", "-"), Severity.FATAL, lost))
        return False
    return True


def _claim_uuids(checked: CheckedSet) -> None:
    assert checked.journal is not None
    key = checked.journal.newest.uuid_bucket
    pointer = key.pointers[0]
    census = checked.censuses[pointer.device]
    bucket = census.geometry.bucket_of(pointer.sector)
    census.raise_gens(np.array([bucket]), np.array([pointer.gen]))
    where = f"{_newest_where(checked)}, uuid_bucket"
    checked.uuid_places.append((pointer, where))
    used_for = census.claim(bucket, Use.UUID)
    if used_for != Use.FREE:
        problem = f"expected a bucket of its own, found {bucket}, used for {used_for.name.lower()}"
        finding = Finding("bucket-shared", Severity.FATAL, "uuid table", where, problem, "all volumes")
        checked.findings.report(finding)


def _newest_where(checked: CheckedSet) -> str:
    assert checked.journal is not None
    return f"{checked.members[0].path} journal entry {checked.journal.newest.seq}"


def _bounds(checked: CheckedSet) -> Bounds:
    superblocks = [member.superblock for member in checked.members]
    return Bounds(
        bucket_sectors=superblocks[0].bucket_sectors,
        first_bucket=max(superblock.first_bucket for superblock in superblocks),
        bucket_counts=tuple(superblock.bucket_count for superblock in superblocks),
    )
