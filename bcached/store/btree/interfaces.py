"""What the tree needs of others: buckets for its nodes, and the journal."""

from typing import Protocol

from bcached.keys import Key, Pointer
from bcached.store.btree.node_rules import Gens


class NodeBuckets(Gens, Protocol):
    """Buckets for nodes. All but `wait_for` answer at once."""

    def take(self, count: int, growth: int) -> list[Pointer] | None:
        """Buckets for new nodes, all or none, as pointers to their first sectors.

        Their gens are such as no pointer has that is on a device or in the journal. growth is by how many
        nodes the tree will have more: the last few buckets are only for rewriting.
        """

    async def wait_for(self, count: int, growth: int) -> None:
        """Return when so many can be had, perhaps; no lock of the tree is held meanwhile."""

    def may_bump(self, pointer: Pointer) -> bool:
        """Whether the gen of the pointer's bucket can go up."""

    def bump(self, pointer: Pointer) -> int:
        """Make the pointer stale; the new gen, which must not be on the device before `bumps_durable`."""

    def bumps_durable(self, count: int) -> None:
        """So many bumps are told by a node on the device: the gens may go there."""

    def free(self, pointer: Pointer) -> None:
        """Nothing names the node in the pointer's bucket any more, nor will after any crash."""


class NodeJournal(Protocol):
    """The journal as the tree sees it."""

    async def durable(self, seq: int) -> None:
        """Return when the entry is durable."""

    async def set_root(self, key: Key, level: int) -> None:
        """Return when a durable entry names this root."""
