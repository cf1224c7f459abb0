# SPDX-License-Identifier: GPL-2.0-only
"""One step of a repair: what it does, what is lost by it, and what it writes.

A step is planned first; the set can be checked as it would be with it before anything is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bcached.device.block_device import BlockDevice
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch


@dataclass(slots=True)
class RepairStep:
    """One change. Each stage is durable before the next one is begun; patches are of member numbers."""

    what: str
    stages: list[list[Patch]] = field(default_factory=list)
    gives_up: list[str] = field(default_factory=list)
    keeps: list[str] = field(default_factory=list)
    loses_dirty: bool = False  # or may: then it is done only if the owner accepts that
    must_end_sound: bool = False  # else it is not done

    @property
    def patches(self) -> Iterator[Patch]:
        """All that it writes, in order."""
        return (patch for stage in self.stages for patch in stage)

    @property
    def is_needed(self) -> bool:
        """Whether it writes anything."""
        return any(self.stages)

    @property
    def written_bytes(self) -> int:
        """How many bytes it writes."""
        return sum(len(patch.data) for patch in self.patches)

    def for_devices(self, members: Sequence[MemberFound], devices: Sequence[BlockDevice]) -> "RepairStep":
        """Returns the step with patches of devices, by their numbers, instead of members."""
        numbers = [
            next(number for number, device in enumerate(devices) if device is member.block_device)
            for member in members
        ]
        stages = [[replace(patch, member=numbers[patch.member]) for patch in stage] for stage in self.stages]
        return replace(self, stages=stages)
