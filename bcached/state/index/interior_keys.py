"""The children of an interior node: which of its keys are live, and what has become of the others.

An interior node only ever gains keys: the key of a child that was replaced stays, and so do freeing keys, at
position 0:0, which carry the gen that the replaced child's bucket has since. So staleness alone tells which
of several keys counts, and the freeing keys must have raised the gens before it is asked.

Two leaves that are both live may have one position. The kernel inserts before it splits: a deletion that
covers most of a leaf from its first sector leaves keys of no sectors there, all at the end of the one before,
and where the split falls among them the left half has that end as its position. The newer of the two comes
first, and is the one that the kernel goes on inserting into; the older one keeps what it held.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bcached.keys import Key, Pointer

Position = tuple[int, int]  # inode and offset; a node's is the highest end its keys may have
START: Position = (0, 0)


def position_of(key: Key) -> Position:
    """Where a node's key stands among its siblings."""
    return key.inode, key.end


def is_freeing(key: Key) -> bool:
    """Whether an interior node's key only tells that a node is gone."""
    return position_of(key) == START


@dataclass(slots=True)
class Children:
    """An interior node's keys, sorted out."""

    live: list[Key] = field(default_factory=list)  # in the order of their positions
    doubled: list[Key] = field(default_factory=list)  # live, at a position where a newer one is live too
    vanished: list[Key] = field(default_factory=list)  # stale, and nothing tells that they were replaced

    @property
    def all_live(self) -> list[Key]:
        """Those that are live, each before the older ones at its position."""
        return sorted([*self.live, *self.doubled], key=position_of)

    def below(self, key: Key) -> list[Key]:
        """The older ones at a live key's position, the newest first."""
        return [older for older in self.doubled if position_of(older) == position_of(key)]


def sort_out(keys: Iterable[Key], staleness: Callable[[Pointer], int]) -> Children:
    """The children that count, given how stale each pointer is now that all these keys are known.

    The keys of newer bsets come first.
    """
    children = Children()
    candidates = [key for key in keys if not is_freeing(key)]
    freed = {(pointer.device, pointer.sector) for key in keys if is_freeing(key) for pointer in key.pointers}
    stale: list[Key] = []
    for key in sorted(candidates, key=position_of):
        if staleness(key.pointers[0]):
            stale.append(key)
        elif children.live and position_of(children.live[-1]) == position_of(key):
            children.doubled.append(key)
        else:
            children.live.append(key)
    positions = {position_of(key) for key in children.live}
    for key in stale:
        replaced = position_of(key) in positions
        if not replaced and (key.pointers[0].device, key.pointers[0].sector) not in freed:
            children.vanished.append(key)
    return children
