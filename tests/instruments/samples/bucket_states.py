# SPDX-License-Identifier: GPL-2.0-only
"""States that a test begins with, whatever the bucket was before."""

from bcached.state.buckets.bucket_table import BucketTable, State


def force_state(table: BucketTable, bucket: int, state: State) -> None:
    """Set a bucket's state, and the counts, without asking whether that move is legal."""
    table.counts[table.states[bucket]] -= 1
    table.counts[state] += 1
    table.states[bucket] = state
