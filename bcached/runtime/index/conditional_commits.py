# SPDX-License-Identifier: GPL-2.0-only
"""Commits with conditions: keys that replace all else in ranges, or that are only added where nothing is.

The condition is evaluated and the keys are accepted without an await in between, in one journal entry.

Where it is not known what is in a replaced range, since its leaf is not loaded, the keys wait for that leaf,
and with them deletions of all else in the range.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from bcached.errors import InvalidParameter, LimitExceeded, NoSuchVolume
from bcached.keys import KEY_SECTORS_MAX, Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.runtime.index.published_places import PublishedPlaces
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.key_ranges import Span, spans_of, words_of
from bcached.state.index.keys.span_set import SpanSet
from bcached.state.index.node import Leaf
from bcached.state.index.tree import Missing
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator

REPLACED_SECTORS_MAX = 1 << 26  # of all ranges: their nodes are loaded at once
REPLACED_KEYS_MAX = 4096  # removed by one commit: it blocks the loop meanwhile


class CommitConditions(Struct, frozen=True):
    """What a commit asks for: ranges whose other keys are removed; and when which keys are inserted.

    With if_absent those where nothing is. With if_versions all, if the change counter of each key's first
    sector has that value, else none.
    """

    replaces: tuple[Span, ...] = ()
    if_absent: bool = False
    if_versions: tuple[int, ...] | None = None


class CommitResult(NamedTuple):
    """The seq of the entry, and for each key its change counter and whether it was committed."""

    seq: int
    versions: tuple[int, ...]
    committed: tuple[bool, ...]


class _Plan(NamedTuple):
    keys: Sequence[Key]  # to be committed
    committed: tuple[bool, ...]  # for each key of the request
    batch: KeyBatch  # all that changes, placed
    deletions: Sequence[Key] = ()

    @property
    def words(self) -> int:
        return len(self.batch.words)


class ConditionalCommits:
    """Commits with conditions. A commit that is refused, or cancelled while it waits, has changed nothing."""

    def __init__(self, index: Index, sectors: SectorAllocator, shared: Shared) -> None:
        self._index = index
        self._changes = index.changes
        self._places = PublishedPlaces(index.changes.change_map)
        self._tree = index.nodes.tree
        self._commit_words = index.changes.journal.commit_words
        self._sectors = sectors
        self._clock = shared.clock
        block_sectors = sectors.members[0].geometry.block_sectors
        self._deletion_sectors = KEY_SECTORS_MAX // block_sectors * block_sectors

    def try_commit(
        self, holder: Holder, keys: Sequence[Key], conditions: CommitConditions
    ) -> CommitResult | None:
        """Accept keys now; returns None if that has to wait."""
        batch = KeyBatch(keys)
        self._check(holder, batch, conditions)
        if conditions.if_absent or conditions.if_versions is not None:  # else accepting them is the check
            self._sectors.check_commit(holder, keys)
        if self._changes.has_space():
            plan = self._plan(batch, conditions)
            if plan is not None and (
                not plan.words or (self._changes.journal.has_space(plan.words) and self._changes.may_grow())
            ):
                return self._accept(holder, keys, plan, conditions)
        self._sectors.check_commit(holder, keys)
        return None

    async def commit(
        self, holder: Holder, keys: Sequence[Key], conditions: CommitConditions, timeout_s: float
    ) -> CommitResult:
        """Accept keys, all in one entry. NoFreeBuckets if that is not possible in time."""
        spans, deadline = [*spans_of(keys), *conditions.replaces], self._clock() + timeout_s
        batch = KeyBatch(keys)
        words = len(batch.words)
        self._check(holder, batch, conditions)

        def may_wait() -> bool:
            return self._plan(batch, conditions) is not None

        while True:
            self._sectors.check_commit(holder, keys)
            await self._changes.make_ready(spans, words, deadline - self._clock(), may_wait)
            self._check(holder, batch, conditions)  # a volume may have been deleted
            self._sectors.check_commit(holder, keys)
            plan = self._plan(batch, conditions)
            assert plan is not None, "the ranges are neither loaded nor can changes of them wait"
            if plan.words > words:  # the keys to be removed are known only now
                words = plan.words
            elif not plan.words or self._changes.may_grow():
                return self._accept(holder, keys, plan, conditions)
            else:
                await self._changes.wait_to_grow(deadline - self._clock())

    def _check(self, holder: Holder, batch: KeyBatch, conditions: CommitConditions) -> None:
        """Raise unless the holder could commit these keys, were they reserved."""
        self._index.check_batch(holder, batch)
        keys, sectors, rights = batch.keys, 0, holder.rights
        for inode, start, end in conditions.replaces:
            if inode not in self._sectors.inodes:
                raise NoSuchVolume(inode)
            if inode in rights.foreign:
                rights.refuse_change(inode)
            sectors += end - start
        if sectors > REPLACED_SECTORS_MAX:
            raise LimitExceeded("replaced_sectors", sectors)
        if conditions.if_absent and len(keys) > 1 and SpanSet(spans_of(keys)).has_overlaps:
            raise InvalidParameter("keys", "with if_absent: expected keys that do not overlap each other")
        if conditions.if_versions is not None and len(conditions.if_versions) != len(keys):
            raise InvalidParameter("if_versions", f"expected {len(keys)}, one for each key")

    # Deciding

    def _plan(self, batch: KeyBatch, conditions: CommitConditions) -> _Plan | None:
        """Returns what is to be changed; None if a node has to be read first."""
        keys, versions = batch.keys, conditions.if_versions
        if versions is not None and self._changes.change_map.counters_of(keys) != versions:
            return _Plan((), (False,) * len(keys), KeyBatch(()))
        if not self._changes.is_placed(batch):
            return None
        if conditions.if_absent:
            live = self._live_by_range(conditions.replaces)
            return None if live is None else self._additions(batch, live)
        live = self._live_by_range(self._tree.uncovered(conditions.replaces, batch))
        deletions: Sequence[Key] | None = ()
        if live is None or (live and (deletions := self._deletions(batch, live)) is None):
            return self._blind(batch, conditions.replaces)
        assert deletions is not None
        words = len(batch.words) + words_of(deletions)
        if words > self._commit_words:
            raise LimitExceeded("commit_words", words)
        return self._with_deletions(deletions, batch)

    def _blind(self, batch: KeyBatch, ranges: Sequence[Span]) -> _Plan | None:
        """Returns a plan where it is not known what is in some ranges, of leaves that are not loaded.

        All of these that the keys do not cover is deleted, whatever is there. None if it cannot wait.
        """
        covered = SpanSet(spans_of(batch.keys))
        deletions: list[Key] = []
        for span in SpanSet(ranges).spans:
            found = self._live(span)
            if found is None:
                deletions += self._deletions_of(covered.gaps(*span))
            else:
                deletions += self._rests(found, covered)
        if len(batch.words) + words_of(deletions) > self._commit_words:
            return None
        return self._with_deletions(deletions, batch)

    def _with_deletions(self, deletions: Sequence[Key], batch: KeyBatch) -> _Plan | None:
        """Returns a plan of a placed batch and deletions before it; None if a node has to be read."""
        committed = (True,) * len(batch.keys)
        if not deletions:
            return _Plan(batch.keys, committed, batch)
        together = KeyBatch([*deletions, *batch.keys])
        if not self._changes.is_placed(together):
            return None
        return _Plan(batch.keys, committed, together, deletions)

    def _deletions_of(self, spans: Iterable[Span]) -> Iterator[Key]:
        """Yields deletions of ranges, as few as possible."""
        for inode, start, end in spans:
            for begin in range(start, end, self._deletion_sectors):
                yield Key(inode, begin, min(end - begin, self._deletion_sectors), False, ())

    def _live_by_range(self, ranges: Sequence[Span]) -> dict[Span, list[Key]] | None:
        """Returns what is live in ranges, those left out where nothing is; None if a node has to be read."""
        found = self._tree.lookup_several(ranges, REPLACED_KEYS_MAX + 1)
        if isinstance(found, Missing):
            return None
        if not found:  # as for most new objects
            return found
        live = {span: self._checked(keys) for span, keys in found.items()}
        return {span: keys for span, keys in live.items() if keys}

    def _additions(self, batch: KeyBatch, live: Iterable[Span]) -> _Plan | None:
        """Returns the keys where nothing live is: nor in the ranges to be replaced, which are then empty.

        None if a node has to be read first.
        """
        taken = SpanSet(live)
        committed = []
        for number, (inode, start, end, _, _) in enumerate(batch.rows):
            is_taken: bool | None = bool(taken.spans) and taken.touches(inode, start, end)
            if not is_taken and (is_taken := self._has_live(batch, number)) is None:
                return None
            committed.append(not is_taken)
        if all(committed):
            return _Plan(batch.keys, tuple(committed), batch)
        keys = [key for key, is_new in zip(batch.keys, committed, strict=True) if is_new]
        new = KeyBatch(keys)
        return _Plan(keys, tuple(committed), new) if self._changes.is_placed(new) else None

    def _has_live(self, batch: KeyBatch, number: int) -> bool | None:
        """Whether anything live is in the range of a key of a placed batch; None if a node has to be read."""
        assert batch.leaves is not None
        leaf, (inode, start, end, _, _) = batch.leaves[number], batch.rows[number]
        if not isinstance(leaf, Leaf):
            found_live = self._live((inode, start, end))
            return None if found_live is None else bool(found_live)
        found = leaf.live.lookup(inode, start, end, REPLACED_KEYS_MAX + 1)
        return bool(found and self._checked(found))

    def _deletions(self, batch: KeyBatch, live: dict[Span, list[Key]]) -> list[Key] | None:
        """Returns keys that delete what is live in the ranges and not covered by the keys.

        They come before the keys in the entry, and so may extend over these. None if a node has to be read.
        """
        count = sum(map(len, live.values()))
        exact = {row[:3] for row in batch.rows}
        if count <= REPLACED_KEYS_MAX and exact.issuperset(
            [span for found in live.values() for span in spans_of(found)]
        ):
            return []  # as for objects that are stored again
        covered = SpanSet(spans_of(batch.keys))
        deletions: list[Key] = []
        count = 0
        for span in SpanSet(live).spans:
            found = self._live(span)
            if found is None:
                return None
            count += len(found)
            if count > REPLACED_KEYS_MAX:
                raise LimitExceeded("replaced_keys", count)
            deletions += self._rests(found, covered)
        return deletions

    def _rests(self, found: Iterable[Key], covered: SpanSet) -> list[Key]:
        """Returns deletions of what was found in a range and is not covered."""
        return self._joined([rest for key in found for rest in covered.gaps(key.inode, key.offset, key.end)])

    def _joined(self, rests: Sequence[Span]) -> list[Key]:
        """Returns deletions of these parts of one range, as few as possible."""
        deletions: list[Key] = []
        begin = behind = 0
        for inode, start, end in rests:
            if not deletions or end - begin > self._deletion_sectors:
                deletions.append(Key(inode, start, end - start, False, ()))
                begin, behind = start, end
            else:
                behind = end
                deletions[-1] = Key(inode, begin, behind - begin, False, ())
        return deletions

    def _live(self, span: Span) -> list[Key] | None:
        """Returns what is live in a range; None if a node has to be read."""
        found = self._tree.lookup(*span, REPLACED_KEYS_MAX + 1)
        return None if isinstance(found, Missing) else self._checked(found)

    def _checked(self, found: Sequence[Key]) -> list[Key]:
        """Returns those of found keys that are live. LimitExceeded if there are too many, stale or not."""
        if len(found) > REPLACED_KEYS_MAX:
            raise LimitExceeded("replaced_keys", len(found))
        return self._sectors.validity.current(found, touch=False)

    def _accept(
        self, holder: Holder, keys: Sequence[Key], plan: _Plan, conditions: CommitConditions
    ) -> CommitResult:
        """Make the change. The counters are read before any other change can be made."""
        seq = self._changes.journal.accepted_seq
        if plan.words:
            seq = self._index.accept(holder, plan.keys, plan.deletions, plan.batch)
            self._places.committed(plan.keys, conditions.replaces)
        return CommitResult(seq, self._changes.change_map.counters_of(keys), plan.committed)
