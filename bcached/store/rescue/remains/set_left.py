# SPDX-License-Identifier: GPL-2.0-only
"""All that is left of a set, read by the check's readers in the order of an opening.

Nothing stops at damage, and nothing is written. What the readers report decides what can be called sure.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, SetRefused
from bcached.format.bkey import END_MAX, Bounds
from bcached.format.jset import JournalEntry
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import INODE_MAX
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import START, Position
from bcached.store.btree.node_reader import NodeFound
from bcached.store.btree.node_rules import leaf_extents
from bcached.store.check.checker import CheckedSet, NodeRead, count_nothing, read_tree
from bcached.store.check.outdated_keys import report_erased
from bcached.store.check.taken_tree import take_tree
from bcached.store.finding import Finding, Severity
from bcached.store.membership import MemberFound, refuse_copies
from bcached.store.patched_device import Patch
from bcached.store.reading.location_checks import bounds_of
from bcached.store.reading.replay import journaled_sectors
from bcached.store.reading.set_reader import Metadata, read_locations, read_prios
from bcached.store.reading.torn_append import MappedSectors
from bcached.store.reading.volume_check import read_volumes
from bcached.store.rescue.remains.doubts import Doubts, same_place
from bcached.store.rescue.remains.journal_left import (
    JournalLeft,
    fits_its_journal,
    read_journal_left,
    sizes_fit,
    with_journal_found,
)
from bcached.store.rescue.remains.members_left import read_members_left
from bcached.store.rescue.remains.missing_members import with_missing
from bcached.store.rescue.remains.newest_bsets import bsets_behind_all_damage, lacks_nothing
from bcached.store.rescue.remains.superblock_left import (
    KnownLayout,
    MemberLeft,
    refuse_unused,
)
from bcached.store.rescue.remains.torn_leaf import was_interrupted

# Fatal findings that are answered for each extent: what they concern is missing, or compared with the rest.
ANSWERED = {
    "superblock",
    "member-missing",
    "prio-chain",
    "btree-root",
    "uuid-bucket",
    "node-damaged",
    "node-child",
    "node-last-child",
    "bucket-shared",
    "bucket-crowded",
    "key-invalid",
    "volume-table",
    "volume-slot",
    "volume-doubled",
    "volume-flags",
    "volume-times",
    "volume-size",
}
# The index is incomplete: a gen may be unknown that only a lost key names.
INCOMPLETE = {
    "btree-root",
    "node-damaged",
    "node-child",
    "node-last-child",
    "node-vanished",
    "bucket-shared",
    "node-erased",
}


@dataclass(frozen=True, slots=True)
class OldKeys:
    """Keys that only entries of the journal have which are not needed any more (lost_keys.py)."""

    first_number: int  # of the first of them; all with higher numbers are such, too
    sectors: int
    first_seq: int  # of the entries
    last_seq: int


@dataclass(slots=True)
class SetLeft:
    """What was found, and what is doubtful about it."""

    checked: CheckedSet
    journal: JournalLeft
    doubts: Doubts
    bounds: Bounds
    former_tables: list[list[UuidEntry | None]] = field(default_factory=list)  # newest first
    sound_leaves: list[tuple[Position, Position]] = field(default_factory=list)  # below sound parents
    damaged_nodes: list[NodeFound] = field(default_factory=list)
    whole_nodes: int = 0  # of these: only sectors behind their bsets are bad
    corrections: list[str] = field(default_factory=list)  # single wrong bits (corrections.py)
    corrected: list[Patch] = field(default_factory=list)  # what puts them right, by the number of the device
    found_leaves: int = 0  # by a search for leaves below these (node_scan.py)
    found_nodes: set[tuple[int, int]] = field(default_factory=set)  # members and buckets of all that it found
    lost_branches: list[tuple[Position, Position]] = field(default_factory=list)  # below damaged parents
    old_keys: OldKeys | None = None  # of lost leaves

    @property
    def members(self) -> list[MemberFound]:
        """The members, by their numbers."""
        return self.checked.members

    @property
    def known_entries(self) -> dict[int, JournalEntry]:
        """Every sound entry of the journal by its seq, needed or not."""
        return {} if self.journal.is_lost else self.journal.found.sound_by_seq()

    @property
    def volumes_are_sound(self) -> bool:
        """Whether the uuid table is as its writer left it, as far as that can be seen."""
        return not any(rule.startswith(("volume-", "uuid-")) for rule in self._fatal_rules())

    def _fatal_rules(self) -> set[str]:
        listed = self.checked.findings.listed
        return {finding.rule for finding in listed if finding.severity == Severity.FATAL}

    def settle(self) -> None:
        """Decide what the findings leave of the confidence in everything."""
        rules = self._fatal_rules()
        self.doubts.nothing_is_sure |= bool(rules - ANSWERED)
        counts = self.checked.findings.counts - Counter({"node-damaged": self.whole_nodes})
        self.doubts.index_is_whole = not set(counts) & INCOMPLETE


async def read_what_is_left(
    devices: Sequence[BlockDevice],
    layout: KnownLayout | None = None,
    known: CheckedSet | None = None,
    node_read: NodeRead = count_nothing,
) -> SetLeft:
    """Read everything that can be read. Raises BcachedError if no superblock or no journal can be found.

    Known is what a check found just now: its tree is moved here, and not read again, if nothing of the
    metadata differs.
    """
    checked = CheckedSet()
    report = checked.findings.report
    found = await read_members_left(devices, layout, report)
    members = [await _with_journal(member) for member in found]
    members.sort(key=lambda member: member.found.superblock.member)
    _refuse_others(members)
    refuse_unused(members, report)
    members = with_missing(members, report)
    checked.metadata = Metadata([member.found for member in members])
    journal = await read_journal_left(checked.members, report)
    checked.metadata.journal = journal.found
    await read_prios(checked.metadata, report)
    await read_locations(checked.metadata, report)
    bounds = bounds_of([member.superblock for member in checked.members])
    left = SetLeft(checked, journal, Doubts.of(journal, bounds), bounds)
    left.doubts.nothing_is_sure = not await _guesses_fit(members, journal)
    left.former_tables = [table async for table in _former_tables(left)]
    await _read_tree(left, known, node_read)
    _judge_by_entries(left)
    left.settle()
    return left


async def _with_journal(member: MemberLeft) -> MemberLeft:
    return MemberLeft(await with_journal_found(member.found), is_guess=True) if member.is_guess else member


async def _read_tree(left: SetLeft, known: CheckedSet | None, node_read: NodeRead) -> None:
    """Read the index, and record what is doubtful of it, and where a part of it cannot be reached."""
    level = left.journal.entries[-1].level
    journaled = journaled_sectors(left.journal.entries)
    async for node in _nodes(left, known):
        node_read()
        if node.damage is not None:
            left.damaged_nodes.append(node)
            await _doubt(left, node, journaled)
        elif node.hidden:
            _doubt_hiding(left, node)
    tree = left.checked.tree
    if tree is None or not tree.nodes_by_level[level]:
        left.lost_branches.append((START, (INODE_MAX, END_MAX)))
        left.doubts.add_interior(START, (INODE_MAX, END_MAX))
    left.sound_leaves = [
        (low, high)
        for low, high in (tree.sound_leaves if tree is not None else ())
        if not any(first <= low and high <= last for first, last in left.lost_branches)
    ]


async def _nodes(left: SetLeft, known: CheckedSet | None) -> AsyncIterator[NodeFound]:
    """Yields the nodes of the index; of one that was read already only those that are not sound."""
    if known is None or not take_tree(left.checked, known):
        async for node in read_tree(left.checked, in_columns=True):
            yield node
        return
    assert left.checked.tree is not None
    async for node in left.checked.tree.doubtful_nodes():
        yield node


def _refuse_others(members: Sequence[MemberLeft]) -> None:
    """Refuse devices that are not members of one set, or are one of them twice."""
    first = members[0].found
    numbers = [member.found.superblock.member for member in members]
    for member in members:
        path, superblock = member.found.path, member.found.superblock
        if superblock.set_uuid != first.superblock.set_uuid:
            raise SetRefused(
                f"{path}: is of set {superblock.set_uuid}, but {first.path} is of {first.superblock.set_uuid}"
            )
        if superblock.bucket_sectors != first.superblock.bucket_sectors:
            raise SetRefused(f"{path}: its buckets have another size than those of {first.path}")
    refuse_copies([member.found for member in members], [None] * len(members))
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(first.superblock.members)):
        raise SetRefused(
            f"{first.path}: expected members of a set of {first.superblock.members}, found the numbers "
            f"{', '.join(map(str, numbers))}: give each once"
        )


async def _guesses_fit(members: Sequence[MemberLeft], journal: JournalLeft) -> bool:
    """Whether the journal is complete by what is on the devices, and not only by a guessed superblock."""
    newest = journal.entries[-1]
    for member in members:
        if not member.is_guess:
            continue
        if not sizes_fit(member.found.superblock, newest):
            return False
        if not await fits_its_journal(member.found, newest.seq):
            return False
    return True


async def _former_tables(left: SetLeft) -> AsyncIterator[list[UuidEntry | None]]:
    """Yields the uuid tables that earlier journal entries name, newest first, if they are still there."""
    newest = left.journal.entries[-1]
    seen = [newest.uuid_bucket.pointers]
    for entry in (*reversed(left.journal.entries), *left.journal.others):
        pointers = entry.uuid_bucket.pointers
        if pointers in seen or not pointers or pointers[0].device >= len(left.members):
            continue
        seen.append(pointers)
        findings: list[Finding] = []
        try:
            table = await read_volumes(left.members, entry, findings.append)
        except BcachedError:
            continue
        if table and all(finding.severity < Severity.FATAL for finding in findings):
            yield table


def _judge_by_entries(left: SetLeft) -> None:
    """Doubt what journal entries contradict that are not needed any more (the check compares them).

    1. A leaf that has keys which entries replaced; of the damaged ones, those that have one among the keys
    that are newer than the damage. 2. Everything, if leaves have keys that no entry has.
    """
    outdated, tree = left.checked.outdated, left.checked.tree
    if outdated is None or tree is None:
        return
    for low, high in outdated.leaves(tree.sound_leaves):
        left.doubts.doubt_leaf(low, high)
    for leaf in left.doubts.leaves:
        newer = (same_place(leaf.newer, key, key.pointers[0]) for key in outdated.within(leaf.low, leaf.high))
        if any(True for parts in newer for _ in parts):
            report_erased(leaf.low, leaf.high, left.checked.findings.report)
            leaf.newer = Extents()
    left.doubts.take_as_outdated(outdated.keys)
    left.doubts.nothing_is_sure |= left.checked.end_by_index is not None


def _doubt_hiding(left: SetLeft, node: NodeFound) -> None:
    """Doubt what a node holds that was sound if its newest bset had not been erased in part."""
    if node.level:
        left.lost_branches.append((node.low, node.high))
        left.doubts.add_interior(node.low, node.high)
    else:
        left.doubts.add_leaf(node.low, node.high, Extents())


async def _doubt(left: SetLeft, node: NodeFound, journaled: MappedSectors) -> None:
    """Record what a damaged node makes doubtful: its range, but not keys behind all damage in a leaf.

    Nothing, if only sectors behind its bsets are bad, or the write of its last one was interrupted.
    """
    if await lacks_nothing(left.members, node):
        left.whole_nodes += 1
        return
    if was_interrupted(node, journaled):
        return
    if node.level:
        left.lost_branches.append((node.low, node.high))
        left.doubts.add_interior(node.low, node.high)
        return
    newer = await bsets_behind_all_damage(left.members, node)
    behind = NodeFound(node.key, node.level, node.low, node.where, bsets=newer)
    left.doubts.add_leaf(node.low, node.high, leaf_extents([behind], left.bounds, lambda _: None))
