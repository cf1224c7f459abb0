# SPDX-License-Identifier: GPL-2.0-only
"""What all keys of a set together may say of its buckets.

Each key was checked against the devices' layout when it was read. Only all of them together show that a
bucket holds more than it can, that data overlaps metadata, or that gens are too far apart to be compared. An
opening and a check count with the same `Recount` and check the same rules, in this order: 1. when all leaves
are counted, 2. when the gens of the journal's keys are added, 3. when these keys are merged into the leaves.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.accounting.opening_counts import Recount
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, Geometry
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.key_rows import KeyRows, Rows
from bcached.store.finding import Finding, Report, Severity
from bcached.store.membership import MemberFound

# Leaves are counted before the journal's keys are merged into them, which may cut the excess. Until then a
# bucket's sectors may count once for the journal and twice for leaves; the table's columns hold that much.
LEAVES_EXCESS_MAX = 2
EXCESS_MAX = 3


@dataclass(slots=True)
class BucketContents:
    """Counts what leaves and journal hold of the members' buckets, and judges it."""

    members: Sequence[MemberFound]
    censuses: Sequence[Census]  # with the gens that nodes name, and with the uses of buckets
    recounts: Sequence[Recount]
    report: Report
    _of_journal: list[Rows] = field(default_factory=list)

    def count_leaf(self, extents: Extents) -> bool:
        """Count a leaf without the journal's keys. Returns whether a key is dirty and stale."""
        any_stale_dirty = False
        rows = KeyRows()
        rows.add(extents)
        for chunk in rows.chunks():
            for device, recount in enumerate(self.recounts):
                is_here = chunk.devices == device  # a placeholder is nowhere
                here = chunk if is_here.all() else chunk.where(is_here)
                any_stale_dirty |= recount.add_rows(here, self._geometry)
        return any_stale_dirty

    def name_pointer(self, pointer: Pointer) -> None:
        """Record the gen of a pointer to metadata."""
        self.recounts[pointer.device].name_one(self._geometry.bucket_of(pointer.sector), pointer.gen)

    def judge(self, keys: Sequence[Key], pointers: Sequence[tuple[Pointer, str]]) -> None:
        """Judge all that is known before the journal's keys are merged into the leaves.

        The gens that the journal's keys name count only now (kernel: bch_journal_mark): a child that only
        such a key makes stale was not replaced, and must not be passed over.
        """
        rows = KeyRows()
        for key in keys:
            if key.sectors and key.pointers:
                rows.add_key(key)
        self._of_journal = list(rows.chunks())
        for chunk in self._of_journal:
            for device, recount in enumerate(self.recounts):
                of_member = chunk.where(chunk.devices == device)
                recount.name(self._geometry.buckets_of(of_member.first_sectors), of_member.gens)
        for device in range(len(self.members)):
            self._judge_gens(device)
            self._judge_leaves(device)
        self._judge_pointers(pointers)
        for device in range(len(self.members)):
            self._judge_journal(device)
        self._judge_replay(keys)

    def judge_sectors(self, device: int, sectors: NDArray[np.integer]) -> None:
        """Judge the sectors in each bucket of a member when all keys are counted."""
        self._refuse_excess(device, sectors, self._geometry.bucket_sectors)

    @property
    def _geometry(self) -> Geometry:
        """The geometry of the first member: all have buckets of one size."""
        return self.censuses[0].geometry

    def _judge_gens(self, device: int) -> None:
        recount = self.recounts[device]
        on_disk = recount.gens_on_disk
        for rule, oldest in (("gen-ahead", on_disk), ("gens-apart", recount.oldest)):
            ahead = recount.gens - on_disk > GEN_DISTANCE_MAX
            apart = recount.gens - oldest > GEN_DISTANCE_MAX
            wrong = (apart & ~ahead if rule == "gens-apart" else ahead) & self._known(device)
            for bucket in np.flatnonzero(wrong).tolist():
                problem = (
                    f"expected gens at most {GEN_DISTANCE_MAX} apart, "
                    f"found {oldest[bucket]} to {recount.gens[bucket]}"
                )
                self._say(rule, device, bucket, problem)

    def _judge_leaves(self, device: int) -> None:
        recount = self.recounts[device]
        self._refuse_excess(device, recount.sectors, self._geometry.bucket_sectors * LEAVES_EXCESS_MAX)
        wrong = (recount.sectors > 0) & self._metadata(device)
        for bucket in np.flatnonzero(wrong).tolist():
            self._refuse_data(device, bucket, f"{recount.sectors[bucket]} sectors")

    def _judge_journal(self, device: int) -> None:
        """No key of the journal may name a bucket of metadata, not even one that a later key covers."""
        recount, wanted = self.recounts[device], self._metadata(device)
        for chunk in self._of_journal:
            rows = chunk.where(chunk.devices == device)
            buckets = self._geometry.buckets_of(rows.first_sectors)
            wrong = (recount.gens[buckets] == rows.gens) & wanted[buckets]
            for bucket in np.unique(buckets[wrong]).tolist():
                sectors = int(rows.sectors[wrong & (buckets == bucket)].sum())
                self._refuse_data(device, bucket, f"{sectors} sectors of the journal")

    def _judge_pointers(self, pointers: Sequence[tuple[Pointer, str]]) -> None:
        """No metadata may lie in a bucket whose gen has moved on."""
        for pointer, where in pointers:
            bucket = self._geometry.bucket_of(pointer.sector)
            gen = int(self.recounts[pointer.device].gens[bucket])
            if gen != pointer.gen and self._known(pointer.device)[bucket]:
                problem = (
                    f"expected a pointer with the bucket's gen {gen}, found {pointer.gen} (bucket {bucket})"
                )
                lost = "what is in it, once the bucket is used again"
                self.report(Finding("pointer-stale", Severity.FATAL, "node key", where, problem, lost))

    def _judge_replay(self, keys: Sequence[Key]) -> None:
        """While the journal's keys are merged, no bucket may hold more than can be counted.

        1. Nearly always the sum of them all is low enough. 2. Else they are counted one by one in order.
        """
        most = self._geometry.bucket_sectors * EXCESS_MAX
        for device, recount in enumerate(self.recounts):
            sums = recount.sectors.astype(np.int64)
            for chunk in self._of_journal:
                rows = chunk.where(chunk.devices == device)
                buckets = self._geometry.buckets_of(rows.first_sectors)
                live = recount.gens[buckets] == rows.gens
                np.add.at(sums, buckets[live], rows.sectors[live])
            if (sums > most).any():
                self._judge_replay_of(device, keys, most)

    def _judge_replay_of(self, device: int, keys: Sequence[Key], most: int) -> None:
        recount, extents = self.recounts[device], Extents(keep_deletions=True)
        held: Counter[int] = Counter()
        excess: dict[int, int] = {}
        for key in keys:
            for cut in extents.insert(key):
                self._add(held, device, cut, -1)
            for bucket in self._add(held, device, key, 1):
                sectors = int(recount.sectors[bucket]) + held[bucket]
                if sectors > most:
                    excess.setdefault(bucket, sectors)
        for bucket, sectors in excess.items():
            self._refuse_sectors(device, bucket, sectors)

    def _add(self, held: Counter[int], device: int, key: Key, sign: int) -> list[int]:
        buckets = []
        for pointer in key.pointers:
            bucket = self._geometry.bucket_of(pointer.sector)
            if pointer.device == device and self.recounts[device].gens[bucket] == pointer.gen:
                held[bucket] += sign * key.sectors
                buckets.append(bucket)
        return buckets

    def _known(self, device: int) -> NDArray[np.bool_]:
        """The buckets whose gens are known: without prios no pointer can be called stale."""
        return self.censuses[device].gens_known

    def _metadata(self, device: int) -> NDArray[np.bool_]:
        """The buckets of metadata whose gens are known."""
        uses = self.censuses[device].uses
        metadata: NDArray[np.bool_] = (uses != Use.FREE) & (uses != Use.DATA) & self._known(device)
        return metadata

    def _refuse_excess(self, device: int, sectors: NDArray[np.integer], most: int) -> None:
        for bucket in np.flatnonzero(sectors > most).tolist():
            self._refuse_sectors(device, bucket, int(sectors[bucket]))

    def _refuse_sectors(self, device: int, bucket: int, sectors: int) -> None:
        problem = f"keys for {sectors} sectors lie in its {self._geometry.bucket_sectors}: some overlap"
        self._say("bucket-crowded", device, bucket, problem)

    def _refuse_data(self, device: int, bucket: int, lost: str) -> None:
        use = Use(int(self.censuses[device].uses[bucket])).name
        problem = f"keys for data point to it, but it is used for {use.lower()}"
        self._say("bucket-shared", device, bucket, problem, lost)

    def _say(self, rule: str, device: int, bucket: int, problem: str, lost: str = "") -> None:
        where = f"{self.members[device].path} bucket {bucket}"
        self.report(Finding(rule, Severity.FATAL, "bucket", where, problem, lost))
