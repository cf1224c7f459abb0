# SPDX-License-Identifier: GPL-2.0-only
"""A device that writes down when each change was issued and when it was complete."""

from collections.abc import Iterator
from contextlib import contextmanager

from bcached.device import BlockDevice, BytesLike
from instruments.devices.durability_log import DurabilityLog, Entry
from instruments.devices.passing_device import PassingDevice

__all__ = ["DurabilityLog", "Entry", "RecordingDevice"]


class RecordingDevice(PassingDevice):
    """A device that passes everything on and keeps a log of its writes, flushes and discards."""

    def __init__(self, inner: BlockDevice, log: DurabilityLog) -> None:
        super().__init__(inner)
        self.log = log

    @classmethod
    async def over(cls, inner: BlockDevice) -> "RecordingDevice":
        """Record a device from now on; all the bytes it holds count as durable."""
        return cls(inner, DurabilityLog(await inner.read(0, inner.size_bytes)))

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        content = bytes(data)
        with self._outcome(self.log.issue_write(offset, content, durable)):
            await self.inner.write(offset, content, durable=durable)

    async def flush(self) -> None:
        with self._outcome(self.log.issue("flush")):
            await self.inner.flush()

    async def discard(self, offset: int, length: int) -> None:
        with self._outcome(self.log.issue("discard", offset, length)):
            await self.inner.discard(offset, length)

    @contextmanager
    def _outcome(self, entry: Entry) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.log.fail(entry)
            raise
        self.log.complete(entry)
