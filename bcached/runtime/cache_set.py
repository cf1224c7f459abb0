# SPDX-License-Identifier: GPL-2.0-only
"""A running cache set: the parts that serve requests, and what concerns all of them.

The parts are the interface: a request calls `allocations`, `index`, `lookups`, `volumes` or `maintenance` of
the set. The set itself answers only what takes several of them: statistics, health, invariants.
"""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.conditional_commits import ConditionalCommits
from bcached.runtime.index.index import Index
from bcached.runtime.index.lookups import Lookups
from bcached.runtime.index.published_places import PublishedPlaces
from bcached.runtime.index.touches import Touches
from bcached.runtime.maintenance import Maintenance
from bcached.runtime.sectors.allocations import Allocations
from bcached.runtime.snapshot import take_snapshot
from bcached.runtime.tasks.task_set import Tasks
from bcached.runtime.volumes import Volumes
from bcached.state.accounting.invariants import content, violations
from bcached.state.accounting.leaf_pointers import live_counts
from bcached.state.accounting.volume_use import volume_violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import Geometry
from bcached.state.explanation import explain, explain_index
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import SetStatistics
from bcached.store.journal.journal import Journal
from bcached.store.member import Member

# A step is a few writes, or a batch of discards; a device that takes longer hangs.
STEP_SECONDS_MAX = 20.0


@dataclass(frozen=True, slots=True)
class MappedGens:
    """The file in which clients can map a member's gens."""

    device: int
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class MappedChanges:
    """The file in which clients can map the change counters; a region has 2^shift sectors."""

    path: str
    bytes: int
    shift: int


class MappedFiles(NamedTuple):
    """All that clients can map: the gens of each member, and the change counters of the set."""

    gens: list[MappedGens]
    changes: MappedChanges


class CacheSet:
    """An open set; runtime/lifetime.py creates it and runs its tasks.

    Its parts are its interface, one attribute each; it forwards nothing.
    """

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        volumes: Volumes,
        sectors: SectorAllocator,
        index: Index,
        allocations: Allocations,
        shared: Shared,
        tasks: Tasks,
        files: MappedFiles,
        lease_path: str,
    ) -> None:
        self.allocations = allocations  # reserve and release sectors
        self.index = index  # commit, clean and drop keys; make them durable
        self.conditional_commits = ConditionalCommits(index, sectors, shared)
        places = PublishedPlaces(index.changes.change_map)
        self.lookups = Lookups(index.nodes, sectors, index.reads, places, shared)
        self.touches = Touches(sectors, shared)  # what clients read without a look-up
        self.volumes = volumes
        self.maintenance = Maintenance(members, volumes, shared)  # what admins request
        self.gen_maps = files.gens  # the files to map for the gens, one per member
        self.change_map = files.changes
        self.lease_path = lease_path
        self.shared = shared
        self.members = members
        self.journal = journal
        self.sectors = sectors
        self.tasks = tasks
        self._nodes_seen = 0  # the count of node writes at the last health check

    @property
    def set_uuid(self) -> UUID:
        """The set's uuid."""
        return self.members[0].superblock.set_uuid

    @property
    def geometry(self) -> Geometry:
        """The first member's layout; bucket and block sizes are the same for all members."""
        return self.members[0].buckets.geometry

    @property
    def commit_words(self) -> int:
        """The most words of keys that one journal entry holds."""
        return self.journal.commit_words

    def statistics(self) -> SetStatistics:
        """Returns a frozen record of the set's counters and levels."""
        return take_snapshot(
            self.members,
            self.journal,
            self.sectors,
            self.index,
            self.touches,
            self.allocations,
            self.volumes.all(),
            self.shared,
            self.tasks,
            failed=None if self.shared.stop.refusal is None else str(self.shared.stop.refusal),
        )

    def is_healthy(self) -> bool:
        """Whether no task has been in the same step for longer than any step should take.

        For calls every few seconds: a task that writes nodes is healthy if some were written since the last.
        """
        io = self.index.nodes.io
        before, self._nodes_seen = self._nodes_seen, io.nodes_written + io.blocks_appended
        return self.shared.steps.busy_s(is_writing_nodes=self._nodes_seen != before) < STEP_SECONDS_MAX

    def verify(self) -> list[str]:
        """Returns the violated invariants of the set's buckets; blocks the loop meanwhile."""
        metadata: list[dict[State, set[int]]] = [
            {
                State.JOURNAL: set(member.buckets.geometry.journal_buckets),
                State.UUID: set(),
                State.BTREE: set(),
            }
            for member in self.members
        ]
        in_use = {
            State.UUID: self.volumes.table_buckets(),
            State.BTREE: self.index.changes.buckets.bucket_ids,
        }
        for state, taken in in_use.items():
            for device, bucket in taken:
                metadata[device][state].add(bucket)
        found = violations(
            self.sectors, [*self.allocations.holders, *self.allocations.quarantine.holders()], metadata
        )
        tree = self.index.nodes.tree
        if tree.is_whole:  # otherwise the rest would have to be read
            member_buckets = self.sectors.members
            for buckets, counts in zip(member_buckets, live_counts(tree.leaves, member_buckets), strict=True):
                found += content(buckets, *counts)
            found += volume_violations(tree.leaves, member_buckets, self.index.changes.live.use)
        return found

    def explain_index(self) -> list[str]:
        """Returns sentences on what is damaged in the index."""
        return list(explain_index(self.statistics()))

    def explain(self) -> list[str]:
        """Returns sentences on why allocations wait or failed."""
        return explain(self.statistics())
