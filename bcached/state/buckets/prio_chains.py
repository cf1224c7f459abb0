# SPDX-License-Identifier: GPL-2.0-only
"""The prio chains of one member: which buckets hold its prios and gens on the device.

A prio write goes to a whole new chain. So there are up to three: the one that the journal points to, the one
being written, and the rest of the previous one, which is being freed in slices.
"""

from bcached.state.buckets.bucket_table import BucketTable


class PrioChains:
    """The buckets of the chains, and the buffer for the gens of the next one."""

    def __init__(self, table: BucketTable) -> None:
        self.current: list[int] = []  # the chain that the journal points to
        self.writing: list[int] = []  # the chain that a prio write is writing
        self.freeing: list[int] = []  # the rest of the previous chain
        self.writes = 0  # finished prio writes
        self._table = table
        # Buffer of the next snapshot of the gens: copying to memory that is mapped already is twice as fast.
        self._spare_gens: bytearray | None = bytearray(table.gens)

    def __repr__(self) -> str:
        chains = f"{len(self.current)} buckets, {len(self.writing)} being written"
        return f"<PrioChains {chains}, {self.writes} writes>"

    def snapshot(self) -> bytearray:
        """Returns a copy of all gens, for a prio write that begins."""
        gens, self._spare_gens = self._spare_gens, None
        assert gens is not None, "a prio write is in progress already"
        memoryview(gens)[:] = self._table.gens
        return gens

    def became_durable(self, gens: bytearray) -> None:
        """Record a finished prio write of these gens: its chain is the current one."""
        assert self._spare_gens is None, "no prio write was begun"
        self._spare_gens = self._table.replace_gens_on_disk(gens)
        self.freeing, self.current, self.writing = self.current, self.writing, []
        self.writes += 1
