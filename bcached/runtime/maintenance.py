# SPDX-License-Identifier: GPL-2.0-only
"""Work on the whole set that an admin requests: collections, prio writes, settings of the superblock."""

from collections.abc import Callable

from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.volumes import Volumes
from bcached.set_state import Replacement
from bcached.store.member import Member


class Maintenance:
    """Requests work from the set's tasks, and waits for its end."""

    def __init__(self, members: list[Member], volumes: Volumes, shared: Shared) -> None:
        self._members = members
        self._volumes = volumes
        self._shared = shared

    async def collect_garbage(self) -> None:
        """Run one whole collection that begins after this call: marking, nodes, moving."""
        shared = self._shared
        async with shared.conditions.bucket_lock:
            goal = shared.collections.rounds + (2 if shared.collections.in_round else 1)
            while shared.collections.rounds < goal:
                shared.stop.check_changeable()  # a waiter that comes after a refusal is not notified of it
                if shared.collections.rounds + shared.collections.in_round < goal:
                    shared.collections.request("asked")
                await shared.conditions[Fact.MARKS_VALID].wait()

    async def write_priorities(self) -> None:
        """Make the gens and prios of this moment durable, on every member."""
        self._shared.stop.check_changeable()
        await self._make_gens_durable(self._shared.stop.check_changeable)

    async def write_last_priorities(self) -> None:
        """Make gens and prios durable while the set is stopping and accepts no other change."""
        await self._make_gens_durable(lambda: None)

    async def _make_gens_durable(self, check: Callable[[], None]) -> None:
        shared = self._shared
        if not shared.options.synchronous:
            return
        goals = {}
        for member in self._members:
            goals[member] = member.buckets.prio_chains.writes + (2 if member in shared.prios.writing else 1)
        async with shared.conditions.bucket_lock:
            while behind := [
                member for member, goal in goals.items() if member.buckets.prio_chains.writes < goal
            ]:
                check()
                for member in behind:
                    # A write under way counts; another request would cause a second one after it.
                    if member.buckets.prio_chains.writes + (member in shared.prios.writing) < goals[member]:
                        shared.prios.request(member)
                await shared.conditions[Fact.GENS_DURABLE].wait()

    async def set_replacement(self, policy: Replacement) -> None:
        """Switch the policy, durably, on every member."""
        self._shared.stop.check_changeable()
        await self._volumes.change_superblocks(replacement=policy)
        self._shared.buckets_moved()

    async def set_discard(self, discard: bool) -> None:
        """Switch discarding of reused buckets on or off, durably, on every member."""
        self._shared.stop.check_changeable()
        await self._volumes.change_superblocks(discard=discard)
