# SPDX-License-Identifier: GPL-2.0-only
"""Undoing a repair: what it overwrote (undo_log.py) goes back to the devices.

A repair that was interrupted is undone the same way: what is in the file and was not written yet is still as
it was. Nothing is restored over what another program has written since.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.device.text_file import refuse_no_file
from bcached.errors import SetRefused
from bcached.store.repair.undo.undo_records import (
    DeviceNamed,
    UndoEnd,
    UndoRecord,
    digest_of,
    read_header,
    read_records,
    sector_digests,
)
from bcached.units import SECTOR_BYTES

Sector = tuple[int, int]  # device, byte


@dataclass(slots=True)
class Undo:
    """What a file says: the contents of each sector before the repair, and since.

    is_whole: it says that the repair ended. Else that was interrupted, or the end of the file is missing.
    end_byte: where the last whole record ends.
    """

    devices: list[DeviceNamed]
    first: list[UndoRecord] = field(default_factory=list)
    before: dict[Sector, bytes] = field(default_factory=dict)  # digests
    written: dict[Sector, set[bytes]] = field(default_factory=dict)  # digests of all that it became
    is_whole: bool = False
    end_byte: int = 0

    @classmethod
    def read(cls, path: str) -> "Undo":
        """Returns what a file says. Raises SetRefused if it is no undo file, or damaged."""
        refuse_no_file(path)
        with open(path, "rb") as file:
            undo = cls(read_header(file, path).devices)
            undo.end_byte = file.tell()
            for record in read_records(file, path):
                if isinstance(record, UndoEnd):
                    undo.is_whole = True
                    break
                if not 0 <= record.device < len(undo.devices):
                    raise SetRefused(f"{path}: damaged: names a device {record.device} that it does not list")
                undo._add(record)
                undo.end_byte = file.tell()
        return undo

    def _add(self, record: UndoRecord) -> None:
        self.first.append(record)
        for number, (before, after) in enumerate(
            zip(sector_digests(record.before), record.after, strict=True)
        ):
            sector = (record.device, record.byte + number * SECTOR_BYTES)
            self.before.setdefault(sector, before)
            self.written.setdefault(sector, set()).add(after)

    async def is_undone(self, devices: Sequence[BlockDevice]) -> bool:
        """Whether the devices are as they were before. Raises SetRefused if others wrote to them since."""
        found = [await self._refuse_others(devices[record.device], record) for record in self.first]
        return all(found)

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

    async def _refuse_others(self, device: BlockDevice, record: UndoRecord) -> bool:
        """Returns whether what a record is about is as it was before all of them."""
        found = await device.read(record.byte, len(record.before))
        is_before = True
        for sector, digest in _numbered(record, found):
            if digest == self.before[sector]:
                continue
            if digest not in self.written[sector]:
                raise SetRefused(
                    f"{device.path}: sector {sector[1] // SECTOR_BYTES} was written after the repair: "
                    "nothing was restored, since that would damage what is there now"
                )
            is_before = False
        return is_before


def _numbered(record: UndoRecord, data: bytes) -> Iterator[tuple[Sector, bytes]]:
    for at in range(0, len(data), SECTOR_BYTES):
        yield (record.device, record.byte + at), digest_of(data[at : at + SECTOR_BYTES])
