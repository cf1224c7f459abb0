"""The client's own way to the data: reads and writes at the sectors a key names.

Direct I/O through a page-aligned buffer. Where the file system has none, buffered I/O, for blocks of whole
pages only: the page cache would otherwise write back a neighbour's old bytes with ours.
"""

import errno
import mmap
import os
from collections.abc import Sequence

from bcached.errors import DeviceError
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import Device

FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class DataPaths:
    """The members' data paths, opened when first needed; safe to use from several threads."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = {device.device: device for device in devices}
        self._readers: dict[int, int] = {}
        self._writers: dict[int, int] = {}

    def write(self, key: Key, data: "bytes | bytearray | memoryview") -> None:
        """Write an extent's bytes to every place the key names; over when all writes have returned."""
        view = memoryview(data).cast("B")
        if view.nbytes != key.sectors * SECTOR_BYTES:
            raise ValueError(f"the key has {key.sectors * SECTOR_BYTES} bytes, the data {view.nbytes}")
        with mmap.mmap(-1, view.nbytes) as buffer:  # page-aligned, as direct I/O asks
            buffer[:] = view
            for pointer in key.pointers:
                self._transfer(pointer, buffer, write=True)

    def read(self, pointer: Pointer, sectors: int) -> bytes:
        """The bytes at one of a key's places, whatever they are by now."""
        with mmap.mmap(-1, sectors * SECTOR_BYTES) as buffer:
            self._transfer(pointer, buffer, write=False)
            return buffer[:]

    def close(self) -> None:
        """Close what was opened."""
        for descriptors in (self._readers, self._writers):
            while descriptors:
                os.close(descriptors.popitem()[1])

    def _transfer(self, pointer: Pointer, buffer: mmap.mmap, *, write: bool) -> None:
        device = self._devices.get(pointer.device)
        if device is None:
            raise DeviceError(f"device {pointer.device}", "the set has no such member")
        descriptor = self._descriptor(device, write=write)
        offset = pointer.sector * SECTOR_BYTES
        verb = os.pwritev if write else os.preadv
        done = 0
        try:
            with memoryview(buffer) as view:
                while done < len(buffer):
                    with view[done:] as rest:
                        count = verb(descriptor, [rest], offset + done)
                    count -= count % SECTOR_BYTES  # direct I/O can go on only where a sector begins
                    if count == 0:
                        raise OSError(errno.EIO, "the device ends before the extent does")
                    done += count
        except OSError as error:
            what = "write" if write else "read"
            raise DeviceError(
                device.data_path, f"cannot {what} at sector {pointer.sector}: {error.strerror}"
            ) from None

    def _descriptor(self, device: Device, *, write: bool) -> int:
        descriptors = self._writers if write else self._readers
        if device.device not in descriptors:
            opened = _open(device, os.O_RDWR if write else os.O_RDONLY)
            if descriptors.setdefault(device.device, opened) != opened:  # another thread was faster
                os.close(opened)
        return descriptors[device.device]


def _open(device: Device, access: int) -> int:
    path = device.data_path
    try:
        return os.open(path, access | FLAGS | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise DeviceError(path, f"cannot open: {error.strerror}") from None
    if device.block_sectors * SECTOR_BYTES % mmap.PAGESIZE:
        raise DeviceError(path, "no direct I/O here, and the set's blocks are smaller than a page")
    try:
        return os.open(path, access | FLAGS)
    except OSError as error:
        raise DeviceError(path, f"cannot open: {error.strerror}") from None
