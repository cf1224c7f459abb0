# SPDX-License-Identifier: GPL-2.0-only
"""When prios are aged and written, and when gens must not be written."""

from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.state.buckets.prio_aging import Aging
from bcached.store.member import Member


class PrioSchedule:
    """The requests to the prio writer, and its progress."""

    def __init__(self, conditions: Conditions, volume_sectors: int) -> None:
        self.aging = Aging(volume_sectors)
        self.wanted_for: set[Member] = set()
        self.writing: set[Member] = set()
        self.blocked = 0  # gens that must not reach the disk yet, kernel: prio_blocked
        self._conditions = conditions

    @property
    def min_prio(self) -> int:
        """The smallest prio at the last aging."""
        return self.aging.min_prio

    def request(self, member: Member) -> None:
        """Have a member's prios and gens written."""
        self.wanted_for.add(member)
        self._conditions.announce(Fact.PRIOS_WANTED)

    def is_requested(self, member: Member) -> bool:
        """Whether a write of a member's prios is under way or requested."""
        return member in self.wanted_for or member in self.writing

    def reserves_filled(self, member: Member) -> None:
        """Wake the prio writer if it waited for buckets of this member's reserves."""
        if member in self.wanted_for:
            self._conditions.announce(Fact.PRIOS_WANTED)

    def block(self) -> None:
        """Have gens stay unwritten until `unblock`: one was raised before a node on a device records it."""
        self.blocked += 1

    def unblock(self, count: int) -> None:
        """End `count` blocks: durable nodes record these gens."""
        self.blocked -= count
        assert self.blocked >= 0
        if not self.blocked:
            self._conditions.announce(Fact.PRIOS_WANTED)

    def count_traffic(self, sectors: int) -> None:
        """Count sectors allocated or found: prios age by these."""
        if self.aging.traffic(sectors):
            self._conditions.announce(Fact.PRIOS_WANTED)
