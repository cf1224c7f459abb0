# SPDX-License-Identifier: GPL-2.0-only
"""A file of the daemon that it maps into memory, and that clients map read-only."""

import mmap
import os
import secrets

from bcached.device.files.group_file import create_group_file, remove_quietly
from bcached.errors import DeviceError, calling, reason


class MappedFile:
    """Zeroed shared memory under a path; an existing file is replaced, never reused."""

    def __init__(self, path: str, size_bytes: int, gid: int | None = None) -> None:
        self.path = path
        self.size_bytes = size_bytes
        temporary = f"{path}.{secrets.token_hex(4)}"
        try:
            descriptor = create_group_file(temporary, os.O_RDWR, gid)
            try:
                # Otherwise a store would raise SIGBUS when the tmpfs is full.
                calling(os.posix_fallocate, descriptor, 0, size_bytes)
                self._map = calling(mmap.mmap, descriptor, size_bytes)
                calling(os.rename, temporary, path)
            except BaseException:
                remove_quietly(temporary)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DeviceError(path, f"cannot map it: {reason(error)}") from None
        self.memory = memoryview(self._map)

    def remove(self) -> None:
        """Unlink the file; processes that have it mapped keep the memory."""
        remove_quietly(self.path)
