# SPDX-License-Identifier: GPL-2.0-only
"""A plugin for nbdkit: a backing device with a cache's dirty data on it, as `bcachectl view` maps it.

nbdkit runs it in the distribution's Python, so it uses the standard library only, and nothing of bcached. The
map is a file of rows of four 64-bit words, in the order of offsets, none overlapping: first sector of the
exported device, sectors, number of the cache device (NO_CACHE: they cannot be read), first sector there.
"""

import errno
import mmap
import os
import traceback
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import nbdkit  # type: ignore[import-not-found]  # nbdkit itself provides it

API_VERSION = 2
SECTOR_BYTES = 512
ROW_WORDS = 4
NO_CACHE = (1 << 64) - 1


@dataclass
class View:
    """What is exported: the files, the map, and the part of the backing device that is the data."""

    caches: list[int] = field(default_factory=list)
    base: int | None = None
    paths: dict[int, str] = field(default_factory=dict)  # by descriptor
    base_sector: int = 0
    size_bytes: int = 0
    rows: memoryview = field(default_factory=lambda: memoryview(b"").cast("Q"))


view = View()
_format_any_exception = traceback.format_exception


def get_ready() -> None:
    """Have nbdkit print errors of devices as a line each: it prints what this function returns."""
    traceback.format_exception = _format_exception


def _format_exception(*arguments: Any, **named: Any) -> list[str]:
    """Returns what is printed of an exception: of a device that cannot be read, only what it says."""
    error = arguments[1] if len(arguments) > 1 else None
    if isinstance(error, OSError):
        return [str(error.strerror)]
    return _format_any_exception(*arguments, **named)


def config(key: str, value: str) -> None:
    """Take a parameter of the command line."""
    if key == "cache":
        view.caches.append(_opened(value))
    elif key == "base":
        view.base = _opened(value)
    elif key == "base_sector":
        view.base_sector = int(value)
    elif key == "size":
        view.size_bytes = int(value)
    elif key == "map" and os.path.getsize(value):
        descriptor = os.open(value, os.O_RDONLY | os.O_CLOEXEC)
        view.rows = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)).cast("Q")
        os.close(descriptor)


def _opened(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    view.paths[descriptor] = path
    return descriptor


def thread_model() -> int:
    """Requests may overlap: nothing here changes."""
    model: int = nbdkit.THREAD_MODEL_PARALLEL
    return model


def open(readonly: bool) -> View:  # noqa: A001
    """Begin a connection."""
    del readonly
    return view


def get_size(handle: View) -> int:
    """Returns the size of the device."""
    return handle.size_bytes


def can_write(handle: View) -> bool:
    """Whether it can be written: never."""
    del handle
    return False


def can_multi_conn(handle: View) -> bool:
    """Whether connections see the same."""
    del handle
    return True


def pread(handle: View, buffer: memoryview, offset: int, flags: int) -> None:
    """Fill the buffer from the caches where they have dirty data, and from the backing device elsewhere."""
    del flags
    try:
        _fill(handle, memoryview(buffer).cast("B"), offset)
    except OSError as error:
        nbdkit.set_error(error.errno or errno.EIO)
        raise


def _fill(handle: View, buffer: memoryview, offset: int) -> None:
    position, end = offset, offset + len(buffer)
    row = bisect_right(range(len(handle.rows) // ROW_WORDS), offset, key=lambda n: _row(handle, n)[1])
    while position < end:
        start, behind, cache, place = _row(handle, row)
        if position < start:
            until = min(start, end)
            _read_base(handle, buffer[position - offset : until - offset], position)
        else:
            until = min(behind, end)
            part = buffer[position - offset : until - offset]
            if cache == NO_CACHE:
                raise OSError(
                    errno.EIO,
                    f"sector {position // SECTOR_BYTES}: dirty data that cannot be read, or was not copied",
                )
            _read(handle.caches[cache], part, place + position - start)
            row += 1
        position = until


def _row(handle: View, number: int) -> tuple[int, int, int, int]:
    """Returns a row in bytes: start and end in the device, the cache, and the place there."""
    at = number * ROW_WORDS
    if at == len(handle.rows):
        return handle.size_bytes, handle.size_bytes, 0, 0
    start, sectors, cache, place = handle.rows[at : at + ROW_WORDS]
    return start * SECTOR_BYTES, (start + sectors) * SECTOR_BYTES, cache, place * SECTOR_BYTES


def _read_base(handle: View, part: memoryview, position: int) -> None:
    if handle.base is None:
        part[:] = bytes(len(part))
    else:
        _read(handle.base, part, handle.base_sector * SECTOR_BYTES + position)


def _read(descriptor: int, part: memoryview, byte: int) -> None:
    while part:
        try:
            count = os.preadv(descriptor, [part], byte)
        except OSError as error:
            raise _failure(error.errno or errno.EIO, descriptor, byte, str(error.strerror)) from None
        if count == 0:
            raise _failure(errno.EIO, descriptor, byte, "the device ends here")
        part, byte = part[count:], byte + count


def _failure(number: int, descriptor: int, byte: int, reason: str) -> OSError:
    return OSError(number, f"{view.paths.get(descriptor, descriptor)}: cannot read at byte {byte}: {reason}")
