# SPDX-License-Identifier: GPL-2.0-only
"""The step that puts single wrong bits of metadata right, where a checksum says which they are."""

from collections.abc import Sequence

from bcached.device.block_device import BlockDevice
from bcached.store.repair.repair_step import RepairStep
from bcached.store.rescue.corrections import read_corrected


async def correct_bits(devices: Sequence[BlockDevice]) -> RepairStep:
    """Plan to write what is corrected of journal, prios and index; patches are of devices."""
    left = await read_corrected(devices)
    step = RepairStep(f"correct {len(left.corrected)} structures with one wrong bit")
    step.keeps = list(left.corrections)
    step.stages = [left.corrected] if left.corrected else []
    return step
