# SPDX-License-Identifier: GPL-2.0-only
"""A device that fails on order: the n-th read, write, flush or discard goes wrong."""

import errno
import os
from dataclasses import dataclass
from typing import Literal

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.errors import DeviceError, FlushFailed
from instruments.devices.passing_device import PassingDevice

Verb = Literal["read", "write", "flush", "discard"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The count-th call of the verb (from 1) fails; with lasting, all later ones do too.

    With short_bytes, a write leaves that much of its data on the device before it fails, and a read is told
    as one that found so much; otherwise nothing of the call happens. The number is an errno.
    """

    verb: Verb
    count: int
    number: int = errno.EIO
    short_bytes: int | None = None
    lasting: bool = False


class FailingDevice(PassingDevice):
    """A device that passes everything on, save what its faults forbid.

    It keeps a real device's promise: after a failed flush or durable write, nothing is written any more.
    """

    def __init__(self, inner: BlockDevice, *faults: Fault) -> None:
        super().__init__(inner)
        self.faults = list(faults)
        self.calls: dict[Verb, int] = {"read": 0, "write": 0, "flush": 0, "discard": 0}
        self.fired: list[Fault] = []
        self._failure: str | None = None

    async def read(self, offset: int, length: int) -> bytes:
        if fault := self._due("read"):
            raise self._error(fault, f"read {length} bytes at {offset}", length)
        return await self.inner.read(offset, length)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        self._refuse_if_failed()
        source = memoryview(data).cast("B")
        if (fault := self._due("write")) is None:
            return await self.inner.write(offset, source, durable=durable)
        what = f"write {source.nbytes} bytes at {offset}"
        if durable:
            self._failure = f"cannot {what} durably: {os.strerror(fault.number)}"
        if fault.short_bytes:
            await self.inner.write(offset, source[: fault.short_bytes])
        self._refuse_if_failed()
        raise self._error(fault, what, source.nbytes)

    async def flush(self) -> None:
        self._refuse_if_failed()
        if fault := self._due("flush"):
            self._failure = f"cannot flush: {os.strerror(fault.number)}"
            self._refuse_if_failed()
        await self.inner.flush()

    async def discard(self, offset: int, length: int) -> None:
        self._refuse_if_failed()
        if fault := self._due("discard"):
            raise self._error(fault, f"discard {length} bytes at {offset}", length)
        await self.inner.discard(offset, length)

    def _due(self, verb: Verb) -> Fault | None:
        """The fault that this call of the verb meets, if any; counts the call."""
        self.calls[verb] += 1
        count = self.calls[verb]
        for fault in self.faults:
            if fault.verb == verb and (fault.count == count or (fault.lasting and count > fault.count)):
                self.fired.append(fault)
                return fault
        return None

    def _error(self, fault: Fault, what: str, expected: int) -> DeviceError:
        found = fault.short_bytes
        reason = os.strerror(fault.number) if found is None else f"expected {expected} bytes, found {found}"
        return DeviceError(self.path, f"cannot {what}: {reason}")

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise FlushFailed(self.path, self._failure)
