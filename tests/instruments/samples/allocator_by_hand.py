# SPDX-License-Identifier: GPL-2.0-only
"""A member's allocator, prio writer and collector driven step by step, without a loop and without devices.

It does what the tasks in runtime/ do with the same decisions, and can keep prio writes and collections
under way until there is nothing else to do.
"""

from collections.abc import Callable

from bcached.set_state import Replacement
from bcached.state.accounting.gc_marks import GcMarks
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.next_step import Attempts, Step, next_step
from bcached.state.buckets.replacement import EXHAUSTIVE
from bcached.state.buckets.reserves import Reserve
from instruments.samples.small_member import run

PUSH_BUCKETS_MAX = 1024
STEPS_MAX = 100  # more in one go is spinning


class AllocatorByHand:
    """One member. on_push is called when buckets came to the reserves; waiting names who waits."""

    def __init__(
        self,
        member: MemberBuckets,
        policy: Replacement = Replacement.LRU,
        on_push: Callable[[], None] = lambda: None,
    ) -> None:
        self.buckets = member
        self.policy = policy
        self.waiting: set[Reserve] = set()
        self.tried = Attempts()
        self.collections = 0
        self.snapshot: tuple[bytearray, int] | None = None  # a prio write is under way
        self.marking: GcMarks | None = None  # a collection is
        self.prios_asked = False
        self.steps: list[Step] = []
        self._on_push = on_push

    @property
    def geometry(self) -> Geometry:
        return self.buckets.geometry

    def next_step(self) -> Step:
        return next_step(
            self.buckets,
            self.tried,
            synchronous=self.buckets.synchronous,
            collections=self.collections,
            collecting=self.marking is not None,
            waiting=frozenset(self.waiting),
            prios_asked=self.prios_asked,
        )

    def do(self, step: Step) -> None:
        """What the task does with a step; a prio write and a collection only begin."""
        self.steps.append(step)
        if step is Step.PUSH:
            self.buckets.push(self.buckets.next_batch(PUSH_BUCKETS_MAX))
            self._on_push()
            self.begin_prios()
        elif step is Step.INVALIDATE:
            self.invalidate()
        elif step is Step.WRITE_PRIOS:
            self.prios_asked = True
            self.begin_prios()
        elif step is Step.COLLECT:
            self.tried.collection_requested(self.buckets)
            self.marking = GcMarks(self.buckets)
            run(self.marking.begin())

    def invalidate(self) -> None:
        is_exhaustive = self.buckets.policies[self.policy].is_exhaustive
        self.tried.pass_begins(self.buckets, self.collections, is_exhaustive=is_exhaustive)
        self._pass(self.policy)
        if self.buckets.invalidate_needs_gc and not is_exhaustive and self.waiting:
            self._pass(EXHAUSTIVE)
            self.tried.was_exhaustive = True
        if not self.buckets.synchronous:
            self.buckets.free_inc.need_no_prios()

    def _pass(self, policy: Replacement) -> None:
        run(self.buckets.invalidate(policy, run(self.buckets.search(policy, 0))))

    def begin_prios(self) -> None:
        """Take the chain and the snapshot, once the reserves hold a chain."""
        if self.prios_asked and self.snapshot is None and self.buckets.has_prio_chain:
            self.buckets.take_prio_chain()
            self.snapshot = self.buckets.snapshot_gens()

    def end_prios(self) -> None:
        """The prio write is durable."""
        assert self.snapshot is not None
        snapshot, self.snapshot = self.snapshot, None
        run(self.buckets.gens_became_durable(*snapshot))
        self.prios_asked = False

    def end_collection(self) -> None:
        """The collection is through."""
        assert self.marking is not None
        marking, self.marking = self.marking, None
        run(marking.finish())
        self.collections += 1

    def settle(self, *, delayed: bool = False) -> list[Step]:
        """Work until there is nothing to do; the steps that took.

        delayed: what is under way ends only when there is nothing else to do.
        """
        begun = len(self.steps)
        while True:
            step = self.next_step()
            if step is not Step.WAIT:
                self.do(step)
            under_way = self.snapshot is not None or self.marking is not None
            if under_way and not (delayed and step is not Step.WAIT):
                if self.marking is not None:
                    self.end_collection()
                if self.snapshot is not None:
                    self.end_prios()
            elif step is Step.WAIT:
                return self.steps[begun:]
            assert len(self.steps) - begun < STEPS_MAX, f"it spins: {[it.name for it in self.steps[-12:]]}"
