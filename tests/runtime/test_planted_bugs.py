# SPDX-License-Identifier: GPL-2.0-only
"""The explorer of crash states is judged itself: each bug planted here in the index, or in what it stands on,
must be found, in a story that is known to bring it out. Without it, the same story must pass.

tests/store/test_planted_bugs.py does the same for sets without keys.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bcached.device.run_all import DeviceOperation, run_all
from bcached.device.shared_flush import SharedFlush
from bcached.format.jset import JournalEntry
from bcached.keys import Key
from bcached.runtime.index.conditional_commits import ConditionalCommits
from bcached.runtime.index.index import Index
from bcached.runtime.index.node_buckets import NodeBuckets
from bcached.runtime.tasks.mover import Move, Mover
from bcached.runtime.tasks.prio_writer import PrioWriter
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.accounting.opening_counts import Recount
from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.free_inc import FreeInc
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.index.journal_pins import SeqPins
from bcached.state.index.keys.key_ranges import spans_of
from bcached.state.index.keys.span_set import SpanSet
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.loaded_leaves import LoadedLeaves
from bcached.state.index.node import Leaf
from bcached.state.index.region_filter import RegionFilter
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.write_back import WriteBack
from bcached.store.journal import entry_writer
from bcached.store.journal.journal import Journal
from bcached.store.journal.ring import JournalRing
from bcached.store.opening import index_recovery
from instruments.crash.exploration import Tally, explore
from instruments.samples.bucket_states import force_state
from instruments.stories.workloads import (
    OPERATIONS,
    Operation,
    evacuate,
    fill,
    overwrite,
    race,
    replace,
    split_while_gens_are_written,
    volumes,
)

Plant = Callable[[pytest.MonkeyPatch], None]
STATES_A_MOMENT = 8


# The journal


def entries_without_a_flush_before(patch: pytest.MonkeyPatch) -> None:
    async def changed(operations: Any, *_: Any) -> None:
        await run_all([operation for operation in operations if not is_flush(operation)])

    patch.setattr(entry_writer, "run_all", changed)


def is_flush(operation: DeviceOperation) -> bool:
    return getattr(operation, "__name__", "") == "flush"


def entries_that_are_not_durable_themselves(patch: pytest.MonkeyPatch) -> None:
    async def changed(operations: Any, *_: Any) -> None:
        operations = list(operations)
        for operation in operations:
            getattr(operation, "keywords", {}).pop("durable", None)
        await run_all(operations)

    patch.setattr(entry_writer, "run_all", changed)


def seals_an_entry_when_its_flush_is_over(patch: pytest.MonkeyPatch) -> None:
    write = Journal._write_next

    async def flushed_first(self: Journal) -> None:
        await run_all(member.block_device.flush for member in self._writer.members)
        await write(self)

    entries_without_a_flush_before(patch)
    patch.setattr(Journal, "_write_next", flushed_first)


def takes_keys_for_part_of_the_entry_under_way(patch: pytest.MonkeyPatch) -> None:
    append = Journal.append_packed

    def joined(self: Journal, packed: bytes, key_count: int) -> int:
        seq = append(self, packed, key_count)
        return seq - 1 if self._lock.locked() else seq

    patch.setattr(Journal, "append_packed", joined)


def lets_go_of_entries_whose_leaves_are_not_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SeqPins, "oldest", property(lambda self: next(reversed(self._pins), None)))


def lets_go_of_all_entries_when_opened(patch: pytest.MonkeyPatch) -> None:
    merge_changes = LoadedLeaves.merge_changes

    def unpinned(self: LoadedLeaves, leaf: Leaf, changes: Unwritten) -> list[Key]:
        removed = merge_changes(self, leaf, changes)
        self.pins.unpin(changes.oldest_seq)
        leaf.unwritten.oldest_seq = 0
        return removed

    patch.setattr(LoadedLeaves, "merge_changes", unpinned)


def reuses_journal_buckets_before_their_release_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalRing, "_is_free", lambda self, *_: True)


def replays_entries_last_first(patch: pytest.MonkeyPatch) -> None:
    replay = index_recovery._replay

    async def backwards(index: Any, reader: Any, entries: Sequence[JournalEntry], *others: Any) -> None:
        await replay(index, reader, [*entries[1:], *entries[:1]], *others)

    patch.setattr(index_recovery, "_replay", backwards)
    patch.setattr(SeqPins, "pin", lambda self, seq: self._pins.update({seq: self._pins.get(seq, 0) + 1}))


# Nodes


class Hasty:
    """A journal of which nobody waits for an entry."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def durable(self, _: int) -> None:
        await asyncio.sleep(0)

    async def set_root(self, key: Key, level: int) -> None:
        await self._journal.set_root(key, level)


def writes_leaves_before_their_entries(patch: pytest.MonkeyPatch) -> None:
    begin = WriteBack.__init__

    def hasty(self: WriteBack, nodes: Any, buckets: Any, journal: Any, *rest: Any) -> None:
        begin(self, nodes, buckets, Hasty(journal) if isinstance(journal, Journal) else journal, *rest)

    patch.setattr(WriteBack, "__init__", hasty)


def names_a_root_before_it_counts(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: Journal, key: Key, level: int) -> None:
        self.locations.root, self.locations.level = key, level

    patch.setattr(Journal, "set_root", at_once)


def writes_nodes_without_making_them_durable(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: SharedFlush) -> None:
        pass

    patch.setattr(SharedFlush, "flush", nothing)


def does_not_wait_for_new_nodes(patch: pytest.MonkeyPatch) -> None:
    write = NodeIo.write_whole
    running = set()

    async def at_once(self: NodeIo, pieces: Any) -> None:
        running.add(asyncio.ensure_future(write(self, pieces)))

    patch.setattr(NodeIo, "write_whole", at_once)


def frees_a_node_before_its_parent_is_written(patch: pytest.MonkeyPatch) -> None:
    bump, free = NodeBuckets.bump, NodeBuckets.free

    def freeing(self: NodeBuckets, pointer: Any) -> int:
        gen = bump(self, pointer)
        free(self, pointer)
        return gen

    def once(self: NodeBuckets, pointer: Any) -> None:
        if self._bucket_id(pointer) in self.bucket_ids:
            free(self, pointer)

    patch.setattr(NodeBuckets, "bump", freeing)
    patch.setattr(NodeBuckets, "free", once)


def frees_nodes_without_a_gen(patch: pytest.MonkeyPatch) -> None:
    def unchanged(self: NodeBuckets, pointer: Any) -> int:
        self._shared.prios.blocked += 1
        return int(pointer.gen)

    patch.setattr(NodeBuckets, "bump", unchanged)


def writes_gens_that_are_blocked(patch: pytest.MonkeyPatch) -> None:
    def all_of_them(self: PrioWriter) -> Any:
        return [member for member in self._shared.prios.wanted_for if member.buckets.has_prio_chain]

    append = NodeIo.append

    async def slowly(self: NodeIo, node: Any, parts: Any) -> None:
        await asyncio.sleep(0.01 * node.level)
        await append(self, node, parts)

    patch.setattr(PrioWriter, "_writable", all_of_them)
    patch.setattr(NodeIo, "append", slowly)


# Buckets


def invalidates_without_a_gen(patch: pytest.MonkeyPatch) -> None:
    invalidate = BucketTable.invalidate

    def unchanged(self: BucketTable, buckets: Any) -> None:
        invalidate(self, buckets)
        self.gens_array[buckets] -= 1

    patch.setattr(BucketTable, "invalidate", unchanged)


def hands_buckets_out_before_their_gens_are_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FreeInc, "ready", property(lambda self: len(self.buckets)))


def discards_before_gens_are_durable(patch: pytest.MonkeyPatch) -> None:
    write = PrioWriter.write

    async def discarding(self: PrioWriter, members: Any) -> None:
        for member in members:
            geometry = member.buckets.geometry
            for bucket in list(member.buckets.free_inc):
                await member.block_device.discard(geometry.byte_of(bucket), geometry.bucket_bytes)
        await write(self, members)

    patch.setattr(PrioWriter, "write", discarding)


def reuses_what_was_emptied_before_that_is_durable(patch: pytest.MonkeyPatch) -> None:
    remove_live = MemberBuckets.remove_live

    def at_once(self: MemberBuckets, bucket: int, sectors: int, dirty: bool, seq: int) -> None:
        remove_live(self, bucket, sectors, dirty, seq)
        self.emptied.pop(bucket, None)
        if self.table.states[bucket] == State.EMPTY:
            self.retire(bucket)

    patch.setattr(MemberBuckets, "remove_live", at_once)


def forgets_which_buckets_keys_on_disk_may_name(patch: pytest.MonkeyPatch) -> None:
    add_live = MemberBuckets.add_live

    def untainted(self: MemberBuckets, bucket: int, sectors: int, dirty: bool) -> None:
        add_live(self, bucket, sectors, dirty)
        self.table.tainted[bucket] = False

    patch.setattr(MemberBuckets, "add_live", untainted)


def takes_dirty_data_for_clean(patch: pytest.MonkeyPatch) -> None:
    def clean(self: BucketTable, bucket: int) -> State:
        return State.CLEAN if self.sectors[bucket] else State.EMPTY

    patch.setattr(BucketTable, "content", clean)
    patch.setattr(BucketTable, "is_reclaimable", reclaimable_if_not_held)


def reclaimable_if_not_held(self: BucketTable, buckets: Any) -> Any:
    states = self.states_array[buckets]
    return (states == State.CLEAN) | (states == State.EMPTY) | (states == State.DIRTY)


def does_not_raise_gens_at_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recount, "_raise", lambda *_: None)


def counts_nothing_at_recovery(patch: pytest.MonkeyPatch) -> None:
    def nothing(self: Recount, buckets: Any, gens: Any, *_: Any) -> bool:
        self.name(buckets, gens)
        return False

    patch.setattr(Recount, "add", nothing)


def forgets_what_goes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSectors, "remove", lambda *_: None)


# Moving, and dropping


def moves_keys_before_their_data(patch: pytest.MonkeyPatch) -> None:
    copy = Mover._copy
    running = set()

    async def later(self: Mover, move: Move, copied: set[Move]) -> None:
        async def after_a_while() -> None:
            await asyncio.sleep(0.5)
            await copy(self, move, copied)

        copied.add(move)
        running.add(asyncio.ensure_future(after_a_while()))

    patch.setattr(Mover, "_copy", later)


def puts_copies_over_what_was_overwritten(patch: pytest.MonkeyPatch) -> None:
    def unchecked(self: Index, holder: Any, _: Key, new: Key) -> bool:
        self.accept(holder, [new])
        return True

    copy = Mover._copy

    async def slowly(self: Mover, move: Move, copied: set[Move]) -> None:
        await asyncio.sleep(0.05)  # so that somebody comes in between
        await copy(self, move, copied)

    patch.setattr(Index, "replace", unchecked)
    patch.setattr(Mover, "_copy", slowly)


def removes_what_is_replaced_with_a_later_entry(patch: pytest.MonkeyPatch) -> None:
    accept = Index.accept
    running = set()

    def apart(
        self: Index, holder: Any, keys: Sequence[Key], deletions: Sequence[Key] = (), batch: Any = None
    ) -> int:
        covered = SpanSet(spans_of(keys))
        rests = [
            Key(inode, start, end - start, False, ())
            for deletion in deletions
            for inode, start, end in covered.gaps(deletion.inode, deletion.offset, deletion.end)
        ]
        seq = accept(self, holder, keys)

        async def later() -> None:
            await self.durable(seq)
            self.changes.change(rests)

        if rests:
            running.add(asyncio.ensure_future(later()))
        return seq

    patch.setattr(Index, "accept", apart)


def forgets_what_waits_for_a_leaf(patch: pytest.MonkeyPatch) -> None:
    def forget(self: LoadedLeaves, leaf: Leaf) -> None:
        changes = self.waiting.leaf_loaded(leaf.bound)
        if changes is not None:
            self.unwritten_words -= changes.word_count
            self.memory_words -= changes.word_count
            self.pins.unpin(changes.oldest_seq)

    patch.setattr(LoadedLeaves, "merge_waiting", forget)


def deletes_nothing_in_leaves_that_are_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConditionalCommits, "_deletions_of", lambda *_: ())


def takes_what_is_away_for_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RegionFilter, "excludes", lambda *_: True)


def reuses_what_data_was_moved_out_of_before_that_is_durable(patch: pytest.MonkeyPatch) -> None:
    replace = Mover._replace

    def at_once(self: Mover, move: Move) -> None:
        replace(self, move)
        for pointer in move.old.pointers:
            buckets = self._sectors.members[pointer.device]
            bucket, table = buckets.geometry.bucket_of(pointer.sector), buckets.table
            if table.states[bucket] == State.CLEAN and buckets.reserves.room_in(Reserve.NONE):
                table.invalidate(np.array([bucket]))
                table.tainted[bucket] = False
                force_state(table, bucket, State.FREE)
                buckets.reserves.push_to(Reserve.NONE, bucket)
        self._shared.queue.serve()

    patch.setattr(Mover, "_replace", at_once)


def leaves_the_keys_of_a_deleted_volume(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(Index, "drop_volume", nothing)


@dataclass(frozen=True)
class Told:
    """The seed of a story that brings a bug out, the lives after cuts and kills that takes, and its stuff."""

    seed: int
    again: int = 0
    only: Sequence[Operation] = OPERATIONS

    def explore(self) -> Tally:
        return explore(self.seed, states=STATES_A_MOMENT, again=self.again, only=self.only)


ANY, GROWN, SPLIT = Told(0), Told(1), Told(6)
ANY_AND_AFTER, GROWN_AND_AFTER = Told(0, 2), Told(1, 2)
GENS_WRITTEN = Told(1, only=(split_while_gens_are_written,))
VOLUMES = Told(4, only=(volumes,))
EVACUATED = Told(1, only=(evacuate,))
REPLACED = Told(1, only=(overwrite, fill, replace, replace))
REPLACED_AWAY = Told(6, only=REPLACED.only)  # with little memory for leaves
STORIES = [ANY_AND_AFTER, GROWN, SPLIT, GENS_WRITTEN, VOLUMES, EVACUATED, REPLACED, REPLACED_AWAY]

BUGS: list[tuple[Plant, Told]] = [
    (entries_without_a_flush_before, ANY),
    (entries_that_are_not_durable_themselves, ANY),
    (seals_an_entry_when_its_flush_is_over, ANY),
    (takes_keys_for_part_of_the_entry_under_way, GROWN_AND_AFTER),
    (lets_go_of_entries_whose_leaves_are_not_written, GROWN),
    (lets_go_of_all_entries_when_opened, Told(8, 2)),
    (reuses_journal_buckets_before_their_release_is_durable, ANY),
    (replays_entries_last_first, ANY_AND_AFTER),
    (writes_leaves_before_their_entries, GROWN),
    (names_a_root_before_it_counts, ANY),
    (writes_nodes_without_making_them_durable, GROWN),
    (does_not_wait_for_new_nodes, ANY),
    (frees_a_node_before_its_parent_is_written, SPLIT),
    (frees_nodes_without_a_gen, GROWN),
    (writes_gens_that_are_blocked, GENS_WRITTEN),
    (invalidates_without_a_gen, SPLIT),
    (hands_buckets_out_before_their_gens_are_durable, ANY),
    (discards_before_gens_are_durable, ANY),
    (reuses_what_was_emptied_before_that_is_durable, ANY),
    (forgets_which_buckets_keys_on_disk_may_name, ANY),
    (takes_dirty_data_for_clean, ANY),
    (does_not_raise_gens_at_recovery, ANY),
    (counts_nothing_at_recovery, ANY),
    (forgets_what_goes, ANY),
    (forgets_what_waits_for_a_leaf, SPLIT),
    (deletes_nothing_in_leaves_that_are_away, REPLACED_AWAY),
    (takes_what_is_away_for_empty, REPLACED_AWAY),
    (moves_keys_before_their_data, GROWN_AND_AFTER),
    (puts_copies_over_what_was_overwritten, Told(7, only=(race,))),
    (reuses_what_data_was_moved_out_of_before_that_is_durable, EVACUATED),
    (leaves_the_keys_of_a_deleted_volume, VOLUMES),
    (removes_what_is_replaced_with_a_later_entry, REPLACED),
]


@pytest.mark.parametrize("told", STORIES, ids=range(len(STORIES)))
def test_without_a_bug_nothing_is_found(told: Told) -> None:
    assert told.explore().told() == ""


@pytest.mark.parametrize(("plant", "told"), BUGS)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant, told: Told) -> None:
    plant(monkeypatch)
    # What a seed tells changes with the code; there are others.
    for each in (told, ANY_AND_AFTER, GROWN_AND_AFTER, Told(3, 2)):
        tally = each.explore()
        if tally.complaints:
            print(tally.told())
            return
    pytest.fail("nothing is found")
