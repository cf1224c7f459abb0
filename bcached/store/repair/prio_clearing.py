# SPDX-License-Identifier: GPL-2.0-only
"""The step that erases prio sets which show that newer journal entries were erased, or were cleared now.

Else they would leave all in doubt until the ring is filled once. No entry names them: no reader needs them.
"""

from bcached.store.check.checker import CheckedSet
from bcached.store.patched_device import Patch
from bcached.store.reading.prio_traces import prio_traces
from bcached.store.repair.repair_step import RepairStep


async def clear_prio_traces(checked: CheckedSet) -> RepairStep:
    """Plan to erase the first block of each such set; nothing is to be done without one."""
    patches: list[Patch] = []
    for number, member in enumerate(checked.members if checked.journal is not None else ()):
        assert checked.journal is not None
        superblock = member.superblock
        block = bytes(superblock.block_bytes)
        async for trace in prio_traces(checked.journal, number, member):
            byte = trace.bucket * superblock.bucket_bytes
            patches.append(Patch(number, byte, block))
    return RepairStep("erase prios that no journal entry names", [patches])
