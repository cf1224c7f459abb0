# SPDX-License-Identifier: GPL-2.0-only
"""A file that is only appended to, each append durable before it returns."""

import asyncio
import os

from bcached.errors import DeviceError, DeviceRefused, calling, reason

LOG_MODE = 0o600  # it holds parts of devices, which may be confidential


class DurableLog:
    """One file, open for appending until it is closed."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: str) -> "DurableLog":
        """Create the file. Raises DeviceRefused if there is one, DeviceError if it cannot be created."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = calling(os.open, path, flags, LOG_MODE)
        except FileExistsError:
            raise DeviceRefused(path, "it exists already: choose another name") from None
        except OSError as error:
            raise DeviceError(path, f"cannot create it: {reason(error)}") from None
        log = cls(path, descriptor)
        try:
            _sync_folder(os.path.dirname(os.path.abspath(path)))
        except OSError as error:
            log.close()
            raise DeviceError(path, f"cannot make its name durable: {reason(error)}") from None
        return log

    @classmethod
    def cut(cls, path: str, end_byte: int) -> "DurableLog":
        """Open a file that is there already, without what is behind a byte. Raises DeviceError."""
        try:
            descriptor = calling(os.open, path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise DeviceError(path, f"cannot write to it: {reason(error)}") from None
        log = cls(path, descriptor)
        try:
            calling(os.fchmod, descriptor, LOG_MODE)
            calling(os.ftruncate, descriptor, end_byte)
            calling(os.fsync, descriptor)
        except OSError as error:
            log.close()
            raise DeviceError(path, f"cannot cut it at byte {end_byte}: {reason(error)}") from None
        return log

    async def append(self, data: bytes) -> None:
        """Append, and return when it would survive a power cut. Raises DeviceError."""
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise DeviceError(self.path, f"cannot append {len(data)} bytes: {reason(error)}") from None

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[calling(os.write, self._descriptor, view) :]
        calling(os.fsync, self._descriptor)

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def _sync_folder(path: str) -> None:
    descriptor = calling(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        calling(os.fsync, descriptor)
    finally:
        os.close(descriptor)
