# SPDX-License-Identifier: GPL-2.0-only
"""Undoing a repair: what it overwrites goes to a file first, and back to the devices from there.

A repair that was interrupted is undone the same way: what is in the file and was not written yet is still as
it was. Nothing is restored over what another program has written since.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.device.files.durable_log import DurableLog
from bcached.device.text_file import refuse_no_file
from bcached.errors import SetRefused
from bcached.store.repair.undo_records import (
    DeviceNamed,
    UndoEnd,
    UndoRecord,
    digest_of,
    pack_end,
    pack_header,
    pack_record,
    read_header,
    read_records,
    sector_digests,
)
from bcached.units import SECTOR_BYTES

Sector = tuple[int, int]  # device, byte


@dataclass(slots=True)
class UndoLog:
    """Writes what was there to a file; devices are numbered as in its header."""

    log: DurableLog
    records: int = 0
    _waiting: list[bytes] = field(default_factory=list)

    @classmethod
    async def create(cls, path: str, devices: Sequence[BlockDevice]) -> "UndoLog":
        """Create the file. Raises DeviceRefused if there is one."""
        log = DurableLog.create(path)
        named = [DeviceNamed(device.path, device.size_bytes) for device in devices]
        await log.append(pack_header(named))
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


@dataclass(slots=True)
class Undo:
    """What a file says: the contents of each sector before the repair, and since.

    is_whole: it says that the repair ended. Else that was interrupted, or the end of the file is missing.
    """

    devices: list[DeviceNamed]
    first: list[UndoRecord] = field(default_factory=list)
    before: dict[Sector, bytes] = field(default_factory=dict)  # digests
    written: dict[Sector, set[bytes]] = field(default_factory=dict)  # digests of all that it became
    is_whole: bool = False

    @classmethod
    def read(cls, path: str) -> "Undo":
        """Returns what a file says. Raises SetRefused if it is no undo file, or damaged."""
        refuse_no_file(path)
        with open(path, "rb") as file:
            undo = cls(read_header(file, path).devices)
            for record in read_records(file, path):
                if isinstance(record, UndoEnd):
                    undo.is_whole = True
                    break
                if not 0 <= record.device < len(undo.devices):
                    raise SetRefused(f"{path}: damaged: names a device {record.device} that it does not list")
                undo._add(record)
        return undo

    def _add(self, record: UndoRecord) -> None:
        self.first.append(record)
        for number, (before, after) in enumerate(
            zip(sector_digests(record.before), record.after, strict=True)
        ):
            sector = (record.device, record.byte + number * SECTOR_BYTES)
            self.before.setdefault(sector, before)
            self.written.setdefault(sector, set()).add(after)

    async def restore(self, devices: Sequence[BlockDevice]) -> int:
        """Write back what was there. Returns the bytes restored. Raises SetRefused if others wrote since."""
        for device, named in zip(devices, self.devices, strict=True):
            if device.size_bytes != named.size_bytes:
                raise SetRefused(
                    f"{device.path}: expected the device of {named.size_bytes} bytes that was repaired as "
                    f"{named.path}, found {device.size_bytes} bytes"
                )
        for record in self.first:
            await self._refuse_others(devices[record.device], record)
        # The newest first: of what was written twice, the oldest contents count.
        for record in reversed(self.first):
            await devices[record.device].write(record.byte, record.before)
        for device in devices:
            await device.flush()
        return sum(len(record.before) for record in self.first)

    async def _refuse_others(self, device: BlockDevice, record: UndoRecord) -> None:
        found = await device.read(record.byte, len(record.before))
        for sector, digest in _numbered(record, found):
            if digest != self.before[sector] and digest not in self.written[sector]:
                raise SetRefused(
                    f"{device.path}: sector {sector[1] // SECTOR_BYTES} was written after the repair: "
                    "nothing was restored, since that would damage what is there now"
                )


def _numbered(record: UndoRecord, data: bytes) -> Iterator[tuple[Sector, bytes]]:
    for at in range(0, len(data), SECTOR_BYTES):
        yield (record.device, record.byte + at), digest_of(data[at : at + SECTOR_BYTES])
