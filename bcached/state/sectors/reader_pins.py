# SPDX-License-Identifier: GPL-2.0-only
"""Pins of readers: they keep the buckets of keys of the index from reuse while a client reads from them."""

from collections.abc import Generator, Sequence

from bcached.errors import NotReserved
from bcached.keys import Key
from bcached.state.buckets.geometry import BucketId, Geometry
from bcached.state.sectors.bucket_pins import BucketPins
from bcached.state.sectors.key_validity import KeyValidity
from bcached.state.sectors.reservations import Holder

BUCKETS_A_SLICE = 256  # a millisecond


class ReaderPins:
    """Pins and unpins the keys of readers, all of a request or none."""

    def __init__(self, pins: BucketPins, validity: KeyValidity, geometry: Geometry) -> None:
        self._pins = pins
        self._validity = validity
        self._geometry = geometry

    def pin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """Keep the buckets of keys of the index from reuse until `unpin`; on an error none is pinned.

        Raises StaleKey, LimitExceeded.
        """
        holder.check_reads(sum(len(key.pointers) for key in keys))
        for key in keys:
            self._validity.check(key)
        for key in keys:
            for bucket_id in self._bucket_ids(key):
                holder.read(bucket_id)
                self._pins.add_reader(bucket_id)

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End one pin for each pointer of these keys, or raise NotReserved and change nothing."""
        ended: list[BucketId] = []
        for key in keys:
            for pointer, bucket_id in zip(key.pointers, self._bucket_ids(key), strict=True):
                if not self._validity.is_current(pointer) or not holder.end_read(bucket_id):
                    for again in ended:
                        holder.read(again)
                    raise NotReserved(key)
                ended.append(bucket_id)
        for bucket_id in ended:
            self._pins.drop(bucket_id, 1)

    def end(self, holder: Holder) -> None:
        """End all pins of a reader."""
        for _ in self.ending(holder):
            pass

    def ending(self, holder: Holder) -> Generator[None, None, None]:
        """End all pins of a reader, in slices."""
        for number, bucket_id in enumerate(list(holder.reads), 1):
            self._pins.drop(bucket_id, holder.forget_reads(bucket_id))
            if number % BUCKETS_A_SLICE == 0:
                yield

    def _bucket_ids(self, key: Key) -> list[BucketId]:
        bucket_of = self._geometry.bucket_of
        return [(pointer.device, bucket_of(pointer.sector)) for pointer in key.pointers]
