# SPDX-License-Identifier: GPL-2.0-only
"""Reads and checks everything in a set, and changes nothing; reports damage and goes on.

The readers and the rules are those of an opening (set_reader.py, node_rules.py, bucket_checks.py); added here
is what does not keep a set from being opened: lost keys, overlapping keys, what other readers would miss.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.format.bkey import Bounds
from bcached.format.prio_set import PrioSet
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Census
from bcached.state.accounting.opening_counts import Recount
from bcached.state.buckets.gens import behind
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.key_check import KeyCheck, KeyTotals, report_unknown_volumes
from bcached.store.check.leaf_traces import LeafTraces
from bcached.store.check.node_copies import NodeCopies
from bcached.store.check.outdated_keys import OutdatedKeys, report_erased
from bcached.store.finding import Finding, Findings, Report, Severity
from bcached.store.journal.reader import JournalEnd, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.reading.bucket_checks import BucketContents
from bcached.store.reading.location_checks import bounds_of
from bcached.store.reading.newer_entries import way_back
from bcached.store.reading.replay import journaled_sectors, merge_entries
from bcached.store.reading.ring_end import finding_of_end
from bcached.store.reading.set_reader import Metadata
from bcached.store.reading.set_reader import read_metadata as read_all_metadata
from bcached.store.reading.tree_reader import TreeReader

NodeRead = Callable[[], None]  # is called for each node of the index that was read


@dataclass(slots=True)
class CheckedSet:
    """What was found. A fresh set, and one without a valid journal, has superblocks only."""

    findings: Findings = field(default_factory=Findings)
    metadata: Metadata = field(default_factory=Metadata)
    tree: TreeReader | None = None
    tree_findings: Findings = field(default_factory=Findings)  # those of the tree and its keys
    totals: KeyTotals = field(default_factory=KeyTotals)
    superseded: list[Key] = field(default_factory=list)  # keys of the journal superseded by later ones
    outdated: OutdatedKeys | None = None
    end_by_index: JournalEnd | None = None  # if a node makes the journal's end suspect

    @property
    def members(self) -> list[MemberFound]:
        """The members, by their numbers."""
        return self.metadata.members

    @property
    def is_fresh(self) -> bool:
        """Whether the set was never in use."""
        return self.metadata.is_fresh

    @property
    def journal(self) -> JournalFound | None:
        """The journal, if there is a valid one."""
        return self.metadata.journal

    @property
    def chains(self) -> list[list[tuple[int, PrioSet]]]:
        """By member: the buckets and sets of its prio chain."""
        return self.metadata.chains

    @property
    def censuses(self) -> list[Census]:
        """By member: what is known of its buckets."""
        return self.metadata.censuses

    @property
    def volumes(self) -> list[UuidEntry | None]:
        """The slots of the uuid table."""
        return self.metadata.volumes

    def staleness(self, pointer: Pointer) -> int | None:
        """Returns how many gens a pointer is behind; None if it is to no member. Valid after `read_tree`."""
        if pointer.device >= len(self.censuses):
            return None
        census = self.censuses[pointer.device]
        return behind(pointer.gen, int(census.gens[census.geometry.bucket_of(pointer.sector)]))


def count_nothing() -> None:
    """Report no progress."""


async def check_set(devices: Sequence[BlockDevice], node_read: NodeRead = count_nothing) -> CheckedSet:
    """Check everything. Raises SetRefused if these are not all the members of their set."""
    checked = await read_metadata(devices)
    async for _ in read_tree(checked, in_columns=True):
        node_read()
    return checked


async def read_metadata(devices: Sequence[BlockDevice]) -> CheckedSet:
    """Read all but the tree."""
    checked = CheckedSet()
    checked.metadata = await read_all_metadata(devices, checked.findings.report, thorough=True)
    return checked


async def read_tree(checked: CheckedSet, *, in_columns: bool = False) -> AsyncIterator[NodeFound]:
    """Yields the nodes of the tree, then judges all its keys. In columns, sound leaves have no bsets."""
    if checked.journal is None or not checked.journal.entries:
        return
    found, report, entries = checked.metadata, _report_of_tree(checked), checked.journal.entries
    members, path = found.members, found.members[0].path
    bounds = bounds_of([member.superblock for member in members])
    replayed = merge_entries(path, entries, bounds, report)
    recounts = [Recount(census.gens_on_disk.copy(), census.gens_on_disk) for census in found.censuses]
    contents = BucketContents(members, found.censuses, recounts, report)
    for pointer, _ in found.metadata_pointers:
        contents.name_pointer(pointer)
    checked.superseded = replayed.superseded
    journaled = journaled_sectors(entries)
    checked.tree = TreeReader(contents, bounds, replayed.extents, journaled, report)
    traces, copies = LeafTraces(members, checked.journal), NodeCopies(members, checked.journal)
    if found.metadata_keys.root is not None:
        root, level = found.metadata_keys.root, checked.journal.newest.level
        async for node in checked.tree.nodes(root, level, in_columns=in_columns):
            traces.see(node)
            await copies.see(node)
            _report_hiding(node, checked.tree, report)
            yield node
    else:
        checked.tree.rows.add(replayed.extents)
    contents.judge(replayed.keys, [*found.metadata_pointers, *checked.tree.node_pointers])
    _judge_keys(checked, contents, report)
    await _judge_by_entries(checked, traces, copies, bounds, report)


def _report_of_tree(checked: CheckedSet) -> Report:
    """Returns a report that adds to both collections, without a reference to the set, which has the tree."""
    all_findings, tree_findings = checked.findings, checked.tree_findings

    def report(finding: Finding) -> None:
        all_findings.report(finding)
        tree_findings.report(finding)

    return report


def _report_hiding(node: NodeFound, tree: TreeReader, report: Report) -> None:
    """Report a node whose newest bset has no beginning: an append that was interrupted, or erased later.

    While the journal has its keys, an opening takes both alike.
    """
    if not node.hidden or node.damage is not None:
        return
    if tree.are_journaled(node.hidden):
        rule, severity = "node-torn", Severity.TORN
        problem = "its newest bset has no beginning, as a power cut may leave it"
        lost = "nothing: the journal has its keys"
    else:
        rule, severity = "node-erased", Severity.DAMAGE
        problem = "there are keys where its bsets end: the beginning of its newest bset was erased"
        lost = f"these keys; others of {node.range} may not be the newest"
    report(Finding(rule, severity, "btree node", node.where, problem, lost))


async def _judge_by_entries(
    checked: CheckedSet, traces: LeafTraces, copies: NodeCopies, bounds: Bounds, report: Report
) -> None:
    """Compare the leaves with all entries, also those that are not needed any more.

    1. Leaves that have keys which entries replaced. 2. Nodes that have a sector which is where the next entry
    would be. 3. Leaves that have keys which no entry has, though the journal has all of them.
    """
    journal, tree = checked.journal, checked.tree
    assert journal is not None
    assert tree is not None
    checked.outdated = OutdatedKeys(tree.rows, journal.sound_by_seq(), bounds)
    for low, high in checked.outdated.leaves(tree.sound_leaves):
        report_erased(low, high, report)
    checked.end_by_index = copies.end() or await traces.end(tree.rows.row_count)
    if checked.end_by_index is not None:
        journal.end = checked.end_by_index
        advice = way_back(checked.members, journal.newest.seq) if copies.end() else ""
        report(finding_of_end(journal, advice))


def _judge_keys(checked: CheckedSet, contents: BucketContents, report: Report) -> None:
    assert checked.tree is not None
    keys = KeyCheck(checked.members, checked.censuses, checked.tree.rows, report)
    for key in (*checked.superseded, *checked.tree.superseded):
        keys.add_superseded(key)
    for key in checked.tree.node_keys:
        keys.add_node_key(key)
    keys.raise_gens()
    checked.totals = keys.judge()
    for device, census in enumerate(checked.censuses):
        contents.judge_sectors(device, census.data_sectors)
    if checked.volumes:
        report_unknown_volumes(checked.totals, checked.volumes, checked.members[0].path, report)
