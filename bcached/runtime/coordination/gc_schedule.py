# SPDX-License-Identifier: GPL-2.0-only
"""When garbage is collected and members are evacuated: requests, traffic, and what has been done."""

from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.set_state import GC_TRIGGERS
from bcached.store.member import Member

TRAFFIC_PART = 16  # new data of this part of the set's size triggers a collection


class GcSchedule:
    """The requests to the garbage collector, and its progress.

    A round is a whole collection: marking, then rewriting and tidying nodes, then moving data.
    """

    def __init__(self, conditions: Conditions, volume_sectors: int) -> None:
        self.markings = 0  # completed markings
        self.is_marking = False  # the first part of a round
        self.rounds = 0  # completed rounds
        self.in_round = False
        self.wanted: str | None = None  # the trigger of the requested collection
        self.runs = dict.fromkeys(GC_TRIGGERS, 0)  # completed markings by trigger
        self.evacuations_wanted: set[Member] = set()
        self.evacuating: Member | None = None  # the member the evacuator works on
        # Sectors of new data until traffic requests a collection; negative once it has requested one.
        self.sectors_to_next = self.interval_sectors = max(volume_sectors // TRAFFIC_PART, 1)
        self._conditions = conditions

    @property
    def has_requests(self) -> bool:
        """Whether a collection or an evacuation is requested."""
        return self.wanted is not None or bool(self.evacuations_wanted)

    def request(self, trigger: str) -> None:
        """Request a garbage collection, unless one is marking or requested."""
        assert trigger in self.runs, trigger
        if self.is_marking or self.wanted is not None:
            return
        self.wanted = trigger
        self._conditions.announce(Fact.COLLECTION_WANTED)

    def count_traffic(self, sectors: int) -> None:
        """Count sectors of new data; requests a collection after enough of them."""
        self.sectors_to_next -= sectors
        if self.sectors_to_next < 0:
            self.request("traffic")

    def begin_marking(self) -> str:
        """Take the request, and record that the marking began; returns the trigger."""
        trigger, self.wanted = self.wanted or "asked", None
        self.is_marking = True
        return trigger

    def end_marking(self, trigger: str) -> None:
        """Count a completed marking, and restart the count of traffic to the next."""
        self.markings += 1
        self.runs[trigger] += 1
        self.sectors_to_next = self.interval_sectors

    def begin_round(self) -> None:
        """Record that a whole collection began."""
        assert not self.in_round
        self.in_round = True

    def end_round(self) -> None:
        """Count a whole collection."""
        assert self.in_round
        self.in_round = False
        self.rounds += 1

    def request_evacuation(self, member: Member) -> None:
        """Request the evacuation of a member: its dirty data is moved together."""
        self.evacuations_wanted.add(member)
        self._conditions.announce(Fact.COLLECTION_WANTED)

    def is_evacuation_requested(self, member: Member) -> bool:
        """Whether an evacuation of a member is under way or requested."""
        return member is self.evacuating or member in self.evacuations_wanted
