# SPDX-License-Identifier: GPL-2.0-only
"""The pins of every bucket of a set: each keeps its bucket from being reused.

Open slots have one pin per bucket, holders one per piece, readers one per pointer. A bucket in quarantine
stays there as long as it has a pin.
"""

from collections import Counter
from collections.abc import Sequence

from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import BucketId
from bcached.state.buckets.member_buckets import MemberBuckets

OPEN = int(State.OPEN)


class BucketPins:
    """Adds and drops pins; the last one dropped gives the bucket the state that its contents call for."""

    def __init__(self, members: Sequence[MemberBuckets]) -> None:
        self.columns = [member.table.pins for member in members]  # by member
        self.quarantined: Counter[BucketId] = Counter()  # holders in quarantine by bucket
        self._members = members

    def state_of(self, bucket_id: BucketId) -> int:
        """The state of a bucket."""
        device, bucket = bucket_id
        return self._members[device].table.states[bucket]

    def add_reader(self, bucket_id: BucketId) -> None:
        """Pin a bucket with data."""
        device, bucket = bucket_id
        table = self._members[device].table
        assert table.states[bucket] >= OPEN, f"pin on bucket {bucket}, which holds no data"
        table.pins[bucket] += 1
        if table.states[bucket] >= State.DIRTY:
            self.settle(bucket_id)

    def drop(self, bucket_id: BucketId, count: int) -> None:
        """Drop pins. Only the last changes the state; an open bucket has a pin of its own."""
        device, bucket = bucket_id
        pins = self.columns[device]
        left = pins[bucket] - count
        pins[bucket] = left
        if not left:
            self.settle(bucket_id)

    def settle(self, bucket_id: BucketId) -> None:
        """Set the state of a bucket that is not (or no longer) open."""
        device, bucket = bucket_id
        member = self._members[device]
        if bucket_id in self.quarantined and member.table.pins[bucket]:
            if member.table.states[bucket] != State.QUARANTINE:
                member.table.move(bucket, State.QUARANTINE)
        else:
            member.settle(bucket)
