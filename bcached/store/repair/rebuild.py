# SPDX-License-Identifier: GPL-2.0-only
"""New metadata for a set from what is left of it: index, uuid table, prios, and an entry that names them.

All of it goes to buckets that the old metadata does not use. The set is as it was until the entry is durable,
and then as it will be: an interruption leaves one or the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.device.block_device import BlockDevice
from bcached.device.heap import trim_heap
from bcached.errors import SetRefused
from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.format.sizes import MEMBERS_MAX, uuid_slots
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_SECTOR
from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import INITIAL_PRIO, Geometry
from bcached.store.check.checker import CheckedSet
from bcached.store.finding import Severity
from bcached.store.membership import MemberFound, renumbered
from bcached.store.patched_device import Patch, PatchedDevice
from bcached.store.prio_chain import PrioChain
from bcached.store.repair.needs import StepOption, in_order
from bcached.store.repair.new_metadata.kept_keys import KeptKeys
from bcached.store.repair.new_metadata.new_buckets import NewBuckets
from bcached.store.repair.new_metadata.new_journal import next_seq, write_entry
from bcached.store.repair.new_metadata.new_tree import NewTree, NodeSize
from bcached.store.repair.new_metadata.volume_slots import VolumeSlots
from bcached.store.repair.repair_step import RepairStep
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.missing_members import is_missing
from bcached.store.rescue.remains.node_scan import SearchProgress
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.uuid_table import UuidTable
from bcached.units import SECTOR_BYTES

LOSSES_LISTED = 20


async def rebuild(
    devices: Sequence[BlockDevice], wishes: Wishes, known: CheckedSet, searched: SearchProgress
) -> tuple[RepairStep, list[MemberFound]]:
    """Plan to write new metadata. Returns the step, and the members that its patches are of.

    Known is what a check of the devices found; it has no tree afterwards.
    """
    left = await read_corrected(devices, known=known)
    await bring_back_lost(left, searched)
    members = [
        MemberFound(_below(member.block_device), member.superblock)
        for member in left.members
        if not is_missing(member.block_device)
    ]
    trim_heap()
    step = await Rebuild(left, members, wishes).step()
    del left
    trim_heap()  # for the check of what the step leaves, which takes as much
    return step, members


def _below(device: BlockDevice) -> BlockDevice:
    """Returns the device below the corrections of a reader."""
    assert isinstance(device, PatchedDevice)
    return device.inner


@dataclass(slots=True)
class Rebuild:
    """One plan."""

    left: SetLeft
    members: list[MemberFound]
    wishes: Wishes
    _present: list[int] = field(default_factory=list)  # the numbers that the members had
    _geometries: list[Geometry] = field(default_factory=list)

    async def step(self) -> RepairStep:
        """Returns the step. Raises SetRefused if there is no space, or a volume's owner is not clear."""
        left = self.left
        superblock = self.members[0].superblock
        kept = KeptKeys.of(left, self.wishes.most, uuid_slots(superblock.bucket_sectors))
        self._present = kept.present
        self._geometries = [left.checked.censuses[number].geometry for number in kept.present]
        volumes = await self._volumes(kept)
        volumes.mark_given_up(self._lossy(kept, volumes), kept.inodes())
        size = NodeSize.of(superblock)
        tree = NewTree(kept.extents, size)
        buckets = NewBuckets.of(kept, self._wanted(tree.node_count))  # may drop a part of the clean keys
        left.checked.tree = None  # as large as all that is kept
        trim_heap()
        root, level = tree.write(self._places(buckets))
        uuid_key, table = self._table(volumes, buckets)
        chains = [self._take_chain(number, buckets) for number in range(len(self.members))]
        prios = [patch for number in range(len(chains)) for patch in self._prios(number, chains, buckets)]
        heads = tuple(chain[0] for chain in chains) + (0,) * (MEMBERS_MAX - len(chains))
        seq = next_seq(left.journal, self.members)
        entry = JournalEntry(seq, seq, uuid_key, root, level, heads)
        writes, erasures = await write_entry(left.journal, self.members, self._present, entry)
        step = self._described(kept, volumes)
        step.stages = [[*tree.patches, table, *prios], writes, *self._superblocks(), erasures]
        return step

    async def _volumes(self, kept: KeptKeys) -> VolumeSlots:
        if StepOption.REBUILD_VOLUMES in self.wishes.steps:
            return await VolumeSlots.of(self.left, kept, self.wishes.backings, self.wishes.volume_sizes)
        if not self.left.volumes_are_sound:
            raise SetRefused(
                f"the uuid table is damaged, too: name {StepOption.REBUILD_VOLUMES.value} as well"
            )
        return VolumeSlots(list(self.left.checked.volumes))

    def _lossy(self, kept: KeptKeys, volumes: VolumeSlots) -> set[int]:
        """Returns the volumes of which dirty data is lost, or may be: any, if that is not known."""
        if not self._unknown_losses():
            return kept.lossy
        return kept.lossy | {
            inode for inode, entry in enumerate(volumes.slots) if entry is not None and not entry.is_burnt
        }

    def _wanted(self, nodes: int) -> list[int]:
        """Returns how many buckets are needed on each member: nodes are spread over all."""
        count = len(self.members)
        wanted = [geometry.prio_bucket_count + -(-nodes // count) for geometry in self._geometries]
        wanted[0] += 1
        return wanted

    def _places(self, buckets: NewBuckets) -> Iterator[Pointer]:
        number = 0
        while True:
            device = number % len(self.members)
            yield self._pointer(device, buckets.take(device), buckets)
            number += 1

    def _pointer(self, device: int, bucket: int, buckets: NewBuckets) -> Pointer:
        return Pointer(device, self._geometries[device].sector_of(bucket), int(buckets.gens[device][bucket]))

    def _table(self, volumes: VolumeSlots, buckets: NewBuckets) -> tuple[Key, Patch]:
        """Returns the key of the uuid table, and its write."""
        table = UuidTable(self._geometries[0], volumes.slots)
        bucket = buckets.take(0)
        key = table.key_at(0, bucket, int(buckets.gens[0][bucket]))
        return key, Patch(0, self._geometries[0].byte_of(bucket), table.pack(volumes.slots))

    def _take_chain(self, number: int, buckets: NewBuckets) -> list[int]:
        return [buckets.take(number) for _ in range(self._geometries[number].prio_bucket_count)]

    def _prios(self, number: int, chains: Sequence[list[int]], buckets: NewBuckets) -> Iterator[Patch]:
        """Yields the writes of a chain. All gens are known only when all buckets are taken."""
        geometry, gens = self._geometries[number], buckets.gens[number]
        chain = chains[number]
        prios, seq = self._former_prios(number)
        for index, bucket in enumerate(chain):
            start = index * geometry.prios_per_bucket
            stop = min(start + geometry.prios_per_bucket, geometry.bucket_count)
            following = chain[index + 1] if index + 1 < len(chain) else 0
            prio_set = PrioSet(seq, following, prios[start:stop], gens[start:stop])
            raw = prio_set.pack(self.members[number].superblock.set_magic, geometry.metadata_bytes)
            yield Patch(number, geometry.byte_of(bucket), bytes(raw))

    def _former_prios(self, number: int) -> tuple[NDArray[np.uint16], int]:
        """Returns the prios that the old chain had, as far as it can be read, and the new chain's seq."""
        geometry, placed = self._geometries[number], self.left.checked.chains[self._present[number]]
        if len(placed) < geometry.prio_bucket_count:
            return np.full(geometry.bucket_count, INITIAL_PRIO, np.uint16), 1
        chain = PrioChain.of(placed, geometry.bucket_count)
        return np.minimum(chain.prios, INITIAL_PRIO), (chain.seq + 1) & (1 << 64) - 1

    def _superblocks(self) -> list[list[Patch]]:
        """Returns the writes of superblocks if a member is given up: the others get new numbers."""
        if len(self.members) == len(self.left.members):
            return []
        stages = []
        for number, member in enumerate(self.members):
            new = renumbered(member.superblock, number, len(self.members))
            sectors = [COPY_SECTOR, SUPERBLOCK_SECTOR] if new.has_space_for_copy else [SUPERBLOCK_SECTOR]
            stages += [[Patch(number, sector * SECTOR_BYTES, new.pack())] for sector in sectors]
        return stages

    def _described(self, kept: KeptKeys, volumes: VolumeSlots) -> RepairStep:
        options = " ".join(in_order(self.wishes.rebuilding))
        step = RepairStep(f"rebuild the metadata ({options})", must_end_sound=True)
        step.keeps = [
            f"{kept.dirty_sectors} dirty sectors, {kept.clean_sectors} clean ones",
            *volumes.told,
            *(f"corrected, one wrong bit: {what}" for what in self.left.corrections),
        ]
        step.gives_up = [*self._losses(kept), *self._unknown_losses()]
        step.loses_dirty = kept.lost_dirty_sectors > 0 or bool(self._unknown_losses())
        return step

    def _losses(self, kept: KeptKeys) -> Iterator[str]:
        """Yields what was found and does not stay."""
        newest, conflicting = kept.lost[Confidence.NEWEST], kept.lost[Confidence.CONFLICTING]
        if newest:
            yield f"{newest} dirty sectors that may not be the newest; --newest keeps them"
        if conflicting:
            yield f"{conflicting} dirty sectors that other keys or metadata claim, too"
        if kept.missing:
            yield f"{kept.missing} dirty sectors that only the missing member has"
        if kept.uncopied:
            yield f"{kept.uncopied} dirty sectors that were not copied, as the map says"
        if kept.outside:
            yield f"{kept.outside} dirty sectors of volumes that the table has no slot for"
        if kept.dropped_clean_sectors:
            yield f"{kept.dropped_clean_sectors} clean sectors: they are read from the backing device again"

    def _unknown_losses(self) -> list[str]:
        """Returns what could not be read, and so cannot be counted."""
        left, told = self.left, []
        is_whole = left.doubts.index_is_whole and left.journal.is_whole and not left.doubts.nothing_is_sure
        if not is_whole or "key-invalid" in left.checked.findings.counts:
            findings = [one for one in left.checked.findings.listed if one.severity >= Severity.DAMAGE]
            told = [str(finding) for finding in findings if finding.lost][:LOSSES_LISTED]
            told.append("what cannot be read, dirty data of an unknown size included")
        return told
