# SPDX-License-Identifier: GPL-2.0-only
"""The children of an interior node: which of its keys are live, and why the others are not.

An interior node only gains keys: the key of a replaced child stays, and so do freeing keys, at position 0:0,
which have the new gen of the replaced child's bucket. So staleness alone decides which of several keys is
live, and the freeing keys must have raised the gens before it is checked.

Two live leaves may have one position. The kernel inserts before it splits: a deletion that covers most of a
leaf from its first sector leaves keys of no sectors there, all at the end of the key before, and if the leaf
is split among them the left half has that end as its position. The newer of the two comes first, and is the
one that the kernel inserts into from then on; the older one keeps its keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bcached.keys import Key, Pointer

Position = tuple[int, int]  # inode and offset; a node's is the highest end its keys may have
START: Position = (0, 0)


def position_of(key: Key) -> Position:
    """The position of a node's key among its siblings."""
    return key.inode, key.end


def is_freeing(key: Key) -> bool:
    """Whether an interior node's key only records that a node was freed."""
    return position_of(key) == START


@dataclass(slots=True)
class Children:
    """An interior node's keys, classified."""

    live: list[Key] = field(default_factory=list)  # in the order of their positions
    doubled: list[Key] = field(default_factory=list)  # live, at the position of a newer live key
    vanished: list[Key] = field(default_factory=list)  # stale, but no key shows that they were replaced

    @property
    def all_live(self) -> list[Key]:
        """All live keys, each before the older ones at its position."""
        return sorted([*self.live, *self.doubled], key=position_of)

    def below(self, key: Key) -> list[Key]:
        """The older ones at a live key's position, the newest first."""
        return [older for older in self.doubled if position_of(older) == position_of(key)]


def classify(keys: Sequence[Key], staleness: Callable[[Pointer], int]) -> Children:
    """Classify an interior node's keys; those of newer bsets come first.

    staleness returns how many gens a pointer is behind, after all these keys have raised the gens.
    """
    children = Children()
    freed = {(pointer.device, pointer.sector) for key in keys if is_freeing(key) for pointer in key.pointers}
    stale: list[Key] = []
    # 1. Freeing keys are no children. Sorting is stable: of live keys at one position the newest is first.
    for key in sorted((key for key in keys if not is_freeing(key)), key=position_of):
        # 2. Stale: replaced by another key, or lost, which shows only when all live ones are known.
        if staleness(key.pointers[0]):
            stale.append(key)
        # 3. Live, at the position of a newer live one.
        elif children.live and position_of(children.live[-1]) == position_of(key):
            children.doubled.append(key)
        # 4. Live.
        else:
            children.live.append(key)
    # A stale key was replaced if a live one has its position, or if a freeing key names its bucket: a
    # coalesced node leaves no key at the positions of all but the last.
    positions = {position_of(key) for key in children.live}
    for key in stale:
        replaced = position_of(key) in positions
        if not replaced and (key.pointers[0].device, key.pointers[0].sector) not in freed:
            children.vanished.append(key)
    return children
