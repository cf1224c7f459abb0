# SPDX-License-Identifier: GPL-2.0-only
"""The undo file of a repair that runs: what it overwrites is durable there first.

A file that a failed or interrupted repair left does not keep its name: the same repair goes on with it, so
that one file undoes both runs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.device.files.durable_log import DurableLog
from bcached.device.text_file import refuse_no_file
from bcached.errors import BcachedError, DeviceRefused, SetRefused
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_records import (
    DeviceNamed,
    holds_no_record,
    pack_end,
    pack_header,
    pack_record,
)


@dataclass(slots=True)
class UndoLog:
    """Writes what was there to a file; devices are numbered as in its header."""

    log: DurableLog
    records: int = 0
    _waiting: list[bytes] = field(default_factory=list)

    @classmethod
    async def open(cls, path: str, devices: Sequence[BlockDevice]) -> "UndoLog":
        """Create the file, or go on with one that an interrupted repair of these devices left.

        Raises DeviceRefused at any other file, and says how to go on.

        1. There is none. 2. Nothing was overwritten yet, or all was restored: the file has nothing that the
        devices do not have. 3. Some of it was: all that follows is added.
        """
        if not _exists(path):
            return await cls.create(path, devices)
        former = _former(path, devices)
        if former is None or await _is_undone(former, path, devices):
            log = DurableLog.cut(path, 0)
            return await cls._begun(log, devices)
        if former.is_whole:
            raise _in_the_way(
                path,
                f"it undoes a repair that ended, by `bcachectl repair --restore {path}`: choose another name",
            )
        return cls(DurableLog.cut(path, former.end_byte), len(former.first))

    @classmethod
    async def create(cls, path: str, devices: Sequence[BlockDevice]) -> "UndoLog":
        """Create the file. Raises DeviceRefused if there is one."""
        return await cls._begun(DurableLog.create(path), devices)

    @classmethod
    async def _begun(cls, log: DurableLog, devices: Sequence[BlockDevice]) -> "UndoLog":
        try:
            await log.append(pack_header(_named(devices)))
        except BaseException:
            log.close()
            raise
        return cls(log)

    def add(self, device: int, byte: int, before: bytes, after: bytes) -> None:
        """Add what a write replaces; `settle` makes it durable."""
        self._waiting.append(pack_record(device, byte, before, after))
        self.records += 1

    async def settle(self) -> None:
        """Make all that was added durable: only then it may be overwritten."""
        if self._waiting:
            await self.log.append(b"".join(self._waiting))
            self._waiting.clear()

    async def finish(self) -> None:
        """The repair has ended: nothing more will be added."""
        await self.settle()
        await self.log.append(pack_end(self.records))


def _named(devices: Sequence[BlockDevice]) -> list[DeviceNamed]:
    """Returns how a restoring finds the devices, from any working directory."""
    return [DeviceNamed(os.path.abspath(device.path), device.size_bytes) for device in devices]


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _former(path: str, devices: Sequence[BlockDevice]) -> Undo | None:
    """Returns what a file undoes; None if it has no record yet. Raises DeviceRefused at another file."""
    try:
        if os.path.islink(path):
            raise _in_the_way(path, "it is a link: choose another name")
        refuse_no_file(path)
        if holds_no_record(path):
            return None
        former = Undo.read(path)
    except SetRefused as error:
        raise _in_the_way(path, f"{str(error).removeprefix(f'{path}: ')}: choose another name") from None
    if former.devices != _named(devices):
        names = ", ".join(device.path for device in former.devices)
        raise _in_the_way(path, f"it is the undo file of a repair of {names}: choose another name")
    return former


async def _is_undone(former: Undo, path: str, devices: Sequence[BlockDevice]) -> bool:
    try:
        return await former.is_undone(devices)
    except SetRefused as error:
        reason = str(error).partition(": nothing")[0]
        raise _in_the_way(path, f"it cannot be continued, {reason}: choose another name") from None


def _in_the_way(path: str, reason: str) -> BcachedError:
    return DeviceRefused(path, f"it exists already, and {reason}")
