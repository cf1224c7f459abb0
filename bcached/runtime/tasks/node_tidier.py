# SPDX-License-Identifier: GPL-2.0-only
"""Tidying the index after a marking: nodes with little content are merged, outdated ones rewritten."""

from collections.abc import Iterator, Sequence

from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.state.index.node import Interior, position_at
from bcached.store.btree.write_back import COALESCED_MAX

FILLS_A_PIECE = 64  # leaves whose fill is checked without an await: a quarter of a millisecond

# Of all leaves, in order: the end of its range, and its words.
Fills = Sequence[tuple[int, int]]


class NodeTidier:
    """Merges and rewrites nodes for the garbage collector, which paces it."""

    def __init__(self, index: Index, pacer: Pacer, shared: Shared) -> None:
        self._nodes = index.nodes
        self._write_back = index.write_back
        self._pacer = pacer
        self._shared = shared

    async def rewrite_outdated(self, outdated: Sequence[Interior]) -> None:
        """Rewrite interior nodes without the nodes they replaced, which hold back the gens of buckets."""
        for interior in outdated:
            await self._write_back.rewrite(interior)
            await self._pacer.checkpoint()

    async def tidy(self, fills: Fills) -> None:
        """Coalesce neighbouring nodes with little content, level by level, and lower the tree if possible.

        1. Leaves that are worth it, by their fill when they were marked. 2. Interior nodes. 3. The root.
        """
        tree, write_back = self._nodes.tree, self._write_back
        await self._pacer.begin()
        for bound in self._half_empty(fills):
            if bound is not None:
                self._shared.stop.check_changeable()
                await write_back.coalesce(0, *position_at(bound))
            await self._pacer.checkpoint()
        for level in range(1, tree.root.level):
            bound = 0
            while level < tree.root.level and bound != tree.last_bound:
                self._shared.stop.check_changeable()
                bound = await write_back.coalesce(level, *position_at(bound))
                await self._pacer.checkpoint()
        while await write_back.shrink():
            pass

    def _half_empty(self, fills: Fills) -> Iterator[int | None]:
        """Yields the start of leaves that can be coalesced with the next few, by their fill when marked.

        Only those are read again. None is yielded as a point to yield to the loop: leaves may be very many.
        """
        shape, begin = self._nodes.io.shape, 0
        for number, (bound, _) in enumerate(fills):
            if number % FILLS_A_PIECE == 0:
                yield None
            together = 0
            for count, (_, words) in enumerate(fills[number : number + COALESCED_MAX], 1):
                together += words
                if shape.coalescence(together, count) is not None:
                    yield begin
                    break
            begin = bound
