# SPDX-License-Identifier: GPL-2.0-only
"""Rewriting leaves without stale keys, so that these hold back no bucket's gen."""

from contextlib import suppress

import numpy as np

from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.index.index import Index
from bcached.state.accounting.leaf_pointers import copies
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.node import Leaf

DROPPED_KEYS = 64  # at once: half a millisecond
FORGET_TIMEOUT_S = 1.0  # for the index to take in keys with fewer copies
STALE_GENS_MAX = 10  # kernel: a node with an older pointer is rewritten


class StaleKeyRemover:
    """Rewrites leaves for the garbage collector, which paces it."""

    def __init__(self, index: Index, member_buckets: list[MemberBuckets], pacer: Pacer) -> None:
        self.leaves_rewritten = 0
        self._index = index
        self._health = index.health
        self._changes = index.changes
        self._nodes = index.nodes
        self._write_back = index.write_back
        self._member_buckets = member_buckets
        self._pacer = pacer

    async def rewrite(self, leaf: Leaf) -> None:
        """Rewrite a leaf without its stale keys, which are then stored nowhere on the device."""

        async def drop_stale() -> None:
            stale = self._stale_keys(leaf)
            for start in range(0, len(stale), DROPPED_KEYS):
                for key in stale[start : start + DROPPED_KEYS]:
                    if self._nodes.tree.leaves.drop(leaf, key) and key.dirty:
                        self._health.stale_dirty_dropped(key)
                await self._pacer.checkpoint()

        if len(self._member_buckets) > 1:
            await self._forget_copies(leaf)
        self.leaves_rewritten += 1
        await self._write_back.rewrite(leaf, drop_stale)

    async def _forget_copies(self, leaf: Leaf) -> None:
        """Remove stale copies from keys that have a current one: they would hold back their buckets' gens."""
        total, good = copies(leaf, self._member_buckets)
        some = np.flatnonzero((good > 0) & (good < total)).tolist()
        keys = list(leaf.live.keys_at(some))
        with suppress(NoFreeBuckets):
            for start in range(0, len(keys), DROPPED_KEYS):
                await self._index.forget_copies(keys[start : start + DROPPED_KEYS], FORGET_TIMEOUT_S)
                await self._pacer.checkpoint()

    def _stale_keys(self, leaf: Leaf) -> list[Key]:
        """Returns the keys of a leaf without any current pointer.

        Excludes dirty keys whose data may still be in a bucket: they record where lost data was.
        """
        _, good = copies(leaf, self._member_buckets)
        stale = leaf.live.keys_at(np.flatnonzero(good == 0).tolist())
        return [key for key in stale if not key.dirty or self._is_long_reused(key)]

    def _is_long_reused(self, key: Key) -> bool:
        """Whether the buckets of all copies were reused many times."""
        staleness = self._changes.buckets.staleness
        return all(staleness(pointer) > STALE_GENS_MAX for pointer in key.pointers)
