# SPDX-License-Identifier: GPL-2.0-only
"""Commits with conditions: keys that replace all else in ranges, or that are only added where nothing is.

The condition is evaluated and the keys are accepted without an await in between, in one journal entry.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from bcached.errors import InvalidParameter, LimitExceeded, NoSuchVolume
from bcached.keys import KEY_SECTORS_MAX, Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.state.index.key_ranges import Span, spans_of, words_of
from bcached.state.index.span_set import SpanSet
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


class Outcome(NamedTuple):
    """The seq of the entry, and for each key its change counter and whether it was committed."""

    seq: int
    versions: tuple[int, ...]
    committed: tuple[bool, ...]


class _Plan(NamedTuple):
    keys: Sequence[Key]
    deletions: Sequence[Key]
    committed: tuple[bool, ...]

    @property
    def words(self) -> int:
        return words_of(self.keys) + words_of(self.deletions)


class ConditionalCommits:
    """Commits with conditions. A commit that is refused, or cancelled while it waits, has changed nothing."""

    def __init__(self, index: Index, sectors: SectorAllocator, shared: Shared) -> None:
        self._index = index
        self._changes = index.changes
        self._tree = index.nodes.tree
        self._commit_words = index.changes.journal.commit_words
        self._sectors = sectors
        self._clock = shared.clock
        block_sectors = sectors.members[0].geometry.block_sectors
        self._deletion_sectors = KEY_SECTORS_MAX // block_sectors * block_sectors

    def try_commit(self, holder: Holder, keys: Sequence[Key], conditions: CommitConditions) -> Outcome | None:
        """Accept keys now; returns None if that has to wait."""
        words = self._check(keys, conditions)
        if conditions.if_absent or conditions.if_versions is not None:  # else accepting them is the check
            self._sectors.check_commit(holder, keys)
        if self._changes.is_ready(_spans(keys, conditions), words):
            plan = self._plan(keys, conditions)
            if not plan.words or (self._changes.journal.has_space(plan.words) and self._changes.may_grow()):
                return self._accept(holder, keys, plan)
        self._sectors.check_commit(holder, keys)
        return None

    async def commit(
        self, holder: Holder, keys: Sequence[Key], conditions: CommitConditions, timeout_s: float
    ) -> Outcome:
        """Accept keys, all in one entry. NoFreeBuckets if that is not possible in time."""
        spans, deadline = _spans(keys, conditions), self._clock() + timeout_s
        words = self._check(keys, conditions)
        while True:
            self._sectors.check_commit(holder, keys)
            await self._changes.make_ready(spans, words, deadline - self._clock())
            self._check(keys, conditions)  # a volume may have been deleted
            self._sectors.check_commit(holder, keys)
            plan = self._plan(keys, conditions)
            if plan.words > words:  # the keys to be removed are known only now
                words = plan.words
            elif not plan.words or self._changes.may_grow():
                return self._accept(holder, keys, plan)
            else:
                await self._changes.wait_to_grow(deadline - self._clock())

    def _check(self, keys: Sequence[Key], conditions: CommitConditions) -> int:
        """Returns the words of the keys; raises if no holder could commit them."""
        words = self._index.check_keys(keys)
        sectors = 0
        for inode, start, end in conditions.replaces:
            if inode not in self._sectors.inodes:
                raise NoSuchVolume(inode)
            sectors += end - start
        if sectors > REPLACED_SECTORS_MAX:
            raise LimitExceeded("replaced_sectors", sectors)
        if conditions.if_absent and SpanSet(spans_of(keys)).has_overlaps:
            raise InvalidParameter("keys", "with if_absent: expected keys that do not overlap each other")
        if conditions.if_versions is not None and len(conditions.if_versions) != len(keys):
            raise InvalidParameter("if_versions", f"expected {len(keys)}, one for each key")
        return words

    # Deciding

    def _plan(self, keys: Sequence[Key], conditions: CommitConditions) -> _Plan:
        versions = conditions.if_versions
        if versions is not None and self._versions(keys) != versions:
            plan = _Plan((), (), (False,) * len(keys))
        elif conditions.if_absent:
            plan = self._additions(keys, conditions)
        else:
            plan = _Plan(keys, self._deletions(keys, conditions), (True,) * len(keys))
        if plan.words > self._commit_words:
            raise LimitExceeded("commit_words", plan.words)
        return plan

    def _additions(self, keys: Sequence[Key], conditions: CommitConditions) -> _Plan:
        """Returns the keys where nothing live is: nor in the ranges to be replaced, which are then empty."""
        taken = SpanSet(span for span in conditions.replaces if self._live(span))
        spans = spans_of(keys)
        committed = tuple(not taken.touches(*span) and not self._live(span) for span in spans)
        return _Plan([key for key, is_new in zip(keys, committed, strict=True) if is_new], (), committed)

    def _deletions(self, keys: Sequence[Key], conditions: CommitConditions) -> list[Key]:
        """Returns keys that delete what is live in the ranges and not covered by the keys.

        They come before the keys in the entry, and so may extend over these.
        """
        live_by_range: list[list[Key]] = []
        count = 0
        for span in SpanSet(conditions.replaces).spans:
            live_by_range.append(self._live(span))
            count += len(live_by_range[-1])
            if count > REPLACED_KEYS_MAX:
                raise LimitExceeded("replaced_keys", count)
        if not count:  # as for most new objects
            return []
        covered = SpanSet(spans_of(keys))
        deletions: list[Key] = []
        for live in live_by_range:
            rests = [rest for key in live for rest in covered.gaps(key.inode, key.offset, key.end)]
            deletions += self._joined(rests)
        return deletions

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

    def _live(self, span: Span) -> list[Key]:
        """Returns what is live in a range, which is loaded. LimitExceeded if these are too many keys."""
        found = self._tree.lookup(*span, REPLACED_KEYS_MAX + 1)
        assert not isinstance(found, Missing), "the caller has not loaded the range"
        if len(found) > REPLACED_KEYS_MAX:  # stale or not
            raise LimitExceeded("replaced_keys", len(found))
        return self._sectors.validity.current(found, touch=False)

    def _accept(self, holder: Holder, keys: Sequence[Key], plan: _Plan) -> Outcome:
        """Make the change. The counters are read before any other change can be made."""
        seq = self._changes.journal.accepted_seq
        if plan.words:
            seq = self._index.accept(holder, plan.keys, plan.deletions)
        return Outcome(seq, self._versions(keys), plan.committed)

    def _versions(self, keys: Sequence[Key]) -> tuple[int, ...]:
        counter = self._changes.change_map.counter
        return tuple([counter(key.inode, key.offset) for key in keys])


def _spans(keys: Sequence[Key], conditions: CommitConditions) -> list[Span]:
    return [*spans_of(keys), *conditions.replaces]
