# SPDX-License-Identifier: GPL-2.0-only
"""Writing the steps of a repair, each block only after what it replaces is durable in the undo file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bcached.device.block_device import BlockDevice
from bcached.store.patched_device import Patch
from bcached.store.repair.repair_step import RepairStep
from bcached.store.repair.undo.undo_log import UndoLog

BATCH_BYTES = 8 << 20  # written between two appends to the undo file

Progress = Callable[[int], None]  # bytes written


def say_nothing(_: int) -> None:
    """Progress that is not reported."""


@dataclass(slots=True)
class Applying:
    """One run; patches are of devices, by their numbers."""

    devices: Sequence[BlockDevice]
    undo: UndoLog | None = None
    progress: Progress = say_nothing
    written_bytes: int = 0

    async def run(self, steps: Sequence[RepairStep]) -> None:
        """Write the steps. An interruption leaves what `UndoLog` undoes, or the same repair continues."""
        for step in steps:
            for stage in step.stages:
                for batch in self._batches(stage):
                    await self._write(batch)
                for device in self.devices:
                    await device.flush()

    def _batches(self, stage: Sequence[Patch]) -> Iterator[list[Patch]]:
        """Yields patches that can be written at once: no two of them are of one block."""
        batch: list[Patch] = []
        blocks = set[tuple[int, int]]()
        size = 0
        for patch in stage:
            of_patch = {(patch.member, block) for block in self._blocks(patch)}
            if batch and (blocks & of_patch or size + len(patch.data) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
                blocks.clear()
            batch.append(patch)
            blocks |= of_patch
            size += len(patch.data)
        if batch:
            yield batch

    def _blocks(self, patch: Patch) -> range:
        block = self.devices[patch.member].logical_block_bytes
        return range(patch.byte // block, -(-(patch.byte + len(patch.data)) // block))

    async def _write(self, batch: Sequence[Patch]) -> None:
        changes: list[tuple[int, int, bytes]] = []
        for patch in batch:
            changes += await self._change(patch)
        if self.undo is not None:
            await self.undo.settle()
        for number, byte, data in changes:
            await self.devices[number].write(byte, data)
            self.written_bytes += len(data)
            self.progress(self.written_bytes)

    async def _change(self, patch: Patch) -> list[tuple[int, int, bytes]]:
        """Returns device, byte and data of a patch in whole blocks; nothing if it changes nothing."""
        device, blocks = self.devices[patch.member], self._blocks(patch)
        block = device.logical_block_bytes
        begin, end = blocks.start * block, blocks.stop * block
        before = await device.read(begin, end - begin)
        inside = patch.byte - begin
        after = before[:inside] + patch.data + before[inside + len(patch.data) :]
        if after == before:
            return []
        if self.undo is not None:
            self.undo.add(patch.member, begin, before, after)
        return [(patch.member, begin, after)]
