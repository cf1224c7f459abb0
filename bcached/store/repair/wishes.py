# SPDX-License-Identifier: GPL-2.0-only
"""What the owner of a set asks a repair for."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from uuid import UUID

from bcached.store.repair.needs import REBUILDING, StepOption
from bcached.store.repair.new_metadata.volume_slots import NamedBacking
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.superblock_left import KnownLayout


@dataclass(frozen=True, slots=True)
class Wishes:
    """The steps that are named, and what they may use."""

    steps: AbstractSet[StepOption]
    seq: int = 0  # the journal entry to go back to
    most: Confidence = Confidence.SURE  # the least confidence of keys that stay
    accepts_loss: bool = False  # of dirty data
    layout: KnownLayout | None = None  # where a superblock cannot be read
    set_uuid: UUID | None = None
    backings: Sequence[NamedBacking] = ()
    volume_sizes: Mapping[int, int] = field(default_factory=dict)  # sectors of flash-only volumes

    @property
    def rebuilding(self) -> set[StepOption]:
        """Those of the steps that are done as one, by new metadata."""
        return set(self.steps) & REBUILDING
