# SPDX-License-Identifier: GPL-2.0-only
"""What the tree needs: buckets for its nodes, and the journal."""

from typing import Protocol

from bcached.keys import Key, Pointer
from bcached.store.btree.node_rules import BucketGens


class NodeAllocator(BucketGens, Protocol):
    """Buckets for nodes. All but `wait_for` return at once."""

    def take(self, count: int, growth: int) -> list[Pointer] | None:
        """Returns buckets for new nodes, all or none, as pointers to their first sectors.

        No pointer on a device or in the journal has their gens. growth is the number of nodes added to the
        tree: the last few buckets are only for rewriting.
        """

    async def wait_for(self, count: int, growth: int) -> None:
        """Return when so many may be available; the caller holds no lock of the tree."""

    def may_bump(self, pointer: Pointer) -> bool:
        """Whether the gen of the pointer's bucket can go up."""

    def bump(self, pointer: Pointer) -> int:
        """Make the pointer stale. Returns the new gen, to be kept off the device until `bumps_durable`."""

    def bumps_durable(self, count: int) -> None:
        """Report that so many bumps are in a node on the device: the prios may be written with these gens."""

    def free(self, pointer: Pointer) -> None:
        """Free the pointer's bucket: nothing names its node any more, nor will after any crash."""


class NodeJournal(Protocol):
    """The journal as the tree sees it."""

    async def durable(self, seq: int) -> None:
        """Return when the entry is durable."""

    async def set_root(self, key: Key, level: int) -> None:
        """Return when a durable entry names this root."""
